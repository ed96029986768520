"""Endless audio-driven talking video: models, streaming, parallelism. Knows nothing of ComfyUI."""

__version__ = "0.1.0"
