"""Evaluation: how well a model talks, on drawn people whose true mouth is known."""
