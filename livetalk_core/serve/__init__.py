"""Streams over the network."""
