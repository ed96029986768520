"""Where a video comes from: signed Content Credentials in its file, and a watermark in its frames."""
