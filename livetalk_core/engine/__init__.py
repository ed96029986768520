"""An engine: networks from checkpoints, made ready to run streams."""
