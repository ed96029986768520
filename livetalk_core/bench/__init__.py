"""What a stream costs: its work counted without weights, and its times measured against the machine's best rates."""
