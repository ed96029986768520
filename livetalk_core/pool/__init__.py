"""Processes that obey commands: one engine spread over several workers, seen from outside as an engine of this process."""
