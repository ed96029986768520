"""One engine spread over several worker processes, used like an engine of this process."""
