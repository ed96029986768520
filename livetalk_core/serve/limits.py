"""What one client may ask of this server, and how long it may take over it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from livetalk_core.engine.options import option, option_of
from livetalk_core.sizes import BUCKETS, Size, choose_size, parse_size


@dataclass(frozen=True, kw_only=True)
class ClientLimits:
    """Every field is an option of `livetalk serve`. ValueError for one below 1 if it is a count, or not above 0 if it is a time."""

    size: str = option(
        "auto",
        metavar="SIZE",
        help="picture size when a client names none: WIDTHxHEIGHT, a bucket, or auto, the model's own for live streams",
    )
    allow_size: tuple[str, ...] = option(
        (), kind=str, many=True, metavar="SIZE", help="a size or bucket that clients may name beside the model's own"
    )
    max_steps: int = option(8, help="denoising steps a chunk that a client may ask for")
    sessions: int = option(8, help="streams at once, over all pools")
    sessions_per_address: int = option(4, help="streams at once from one address; behind a proxy, all clients have the proxy's")
    session_s: float = option(21600.0, help="seconds that a stream may last")
    prompt_characters: int = option(2000, help="length of a prompt")
    picture_mb: int = option(16, help="megabytes of a picture file")
    picture_megapixels: int = option(40, help="megapixels of a picture")
    queued_s: float = option(
        60.0, help="seconds of sound that may wait, and that one message may hold; a client that sends more is not read"
    )
    spare_messages: int = option(1000, help="messages beyond 400 for each second of sound, pings included")
    first_s: float = option(20.0, help="seconds until a client's first message, or the request of a connection")
    picture_s: float = option(60.0, help="seconds until its picture")
    silence_s: float = option(600.0, help="seconds between two messages of sound")
    answer_s: float = option(20.0, help="seconds until a silent client is asked whether it is there, and until it must have answered")
    speech_s: float = option(600.0, help="seconds of speech that may wait in a live session")
    unread_s: float = option(30.0, help="seconds that a client may take to read a piece of video")
    watermark: bool = option(False, help="put an invisible watermark with a random id into every stream; the client is told the id")

    def __post_init__(self) -> None:
        for field in fields(self):
            value = vars(self)[field.name]
            option_of(field).check(field.name, value)
            if isinstance(value, float) and not value > 0:
                raise ValueError(f"{field.name}={value} must be above 0")
        for name in (self.size, *self.allow_size):
            if name != "auto":
                sizes_of(name)

    @property
    def picture_bytes(self) -> int:
        return self.picture_mb * 10**6

    @property
    def picture_pixels(self) -> int:
        return self.picture_megapixels * 10**6

    def sizes(self, bucket: str) -> dict[str, tuple[Size, ...]]:
        """What a client may name, and the sizes it may come to. `bucket`: the model's own."""
        names = (bucket, self.size, *self.allow_size)
        return {name: sizes_of(name) for name in names if name != "auto"}

    def choose_size(self, name: str, picture: Size, bucket: str) -> Size | None:
        """The size that a client gets for what it named and the picture it sent; None for a size that is not offered."""
        offered = self.sizes(bucket)
        name = bucket if name == "auto" else name
        if name in offered:
            return choose_size(*picture, name) if name in BUCKETS else offered[name][0]
        single = {f"{width}x{height}": (width, height) for sizes in offered.values() for width, height in sizes}
        return single.get(name)


def sizes_of(name: str) -> tuple[Size, ...]:
    """A bucket's sizes, or the one size named. ValueError for another form."""
    return BUCKETS[name] if name in BUCKETS else (parse_size(name),)
