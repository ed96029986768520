"""One stream on several processes. The models do not know about it."""
