"""How well a model talks, measured on drawn people whose true mouth is known."""
