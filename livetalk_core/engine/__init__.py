"""An engine loads the networks from checkpoints and runs streams."""
