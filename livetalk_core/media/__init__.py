"""Sound, pictures and video files in and out; knows nothing of the rest of the package."""
