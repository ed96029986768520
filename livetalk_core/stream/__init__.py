"""The loop that makes a stream: audio windows, few-step flow, colour, and the session that carries motion from chunk to chunk."""
