"""The loop that makes a stream: audio windows, few-step flow, color, and the session that carries motion from chunk to chunk."""
