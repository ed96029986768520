"""What operators may know of a server, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CHUNK_SECONDS = (0.1, 0.25, 0.5, 0.75, 1, 1.12, 1.25, 1.5, 2, 3, 5, 10, 30, 60)
FIRST_SECONDS = (0.5, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 10, 30, 60)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counts since the server's start. Only the event loop's thread touches them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.streams = Gauge("livetalk_streams", "streams that are open", ["pool"], registry=registry)
        self.ready = Gauge("livetalk_pool_ready", "1 when the pool takes streams", ["pool"], registry=registry)
        self.ended = Counter("livetalk_streams_ended", "streams that ended: finished, left, refused, failed", ["how"], registry=registry)
        self.refused = Counter("livetalk_refused", "clients turned away, or cut off, by reason", ["reason"], registry=registry)
        self.failures = Counter("livetalk_failures", "streams that a failure of this server ended", registry=registry)
        self.frames = Counter("livetalk_frames", "frames sent", registry=registry)
        self.late = Counter(
            "livetalk_late_frames", "frames sent after the ones before had been shown, though their sound was there", registry=registry
        )
        self.dropped = Counter("livetalk_dropped_frames", "frames made but not sent, since their client had gone", registry=registry)
        self.chunk_s = Histogram("livetalk_chunk_seconds", "time to make a chunk", buckets=CHUNK_SECONDS, registry=registry)
        self.first_s = Histogram(
            "livetalk_first_frame_seconds", "from a stream's first sound to its first frame sent", buckets=FIRST_SECONDS, registry=registry
        )
        self.delay_s = Histogram(
            "livetalk_live_delay_seconds", "from an utterance's first sound to its lips, in live sessions", buckets=FIRST_SECONDS,
            registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        return generate_latest(self.registry)
