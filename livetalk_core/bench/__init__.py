"""What a chunk costs: its work counted without weights, and its time measured against what the machine can do."""
