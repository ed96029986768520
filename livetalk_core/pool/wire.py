"""What travels between a pool and its workers: orders one way, answers and notes the other, as pickles over private sockets.

Both ends are started by the same user from the same files and nothing else can reach the sockets, so pickles are safe here. They never
come from a network. Axes: T frames, H W size, C channels, P people, N samples, L tokens, D width, K masks.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from livetalk_core.engine.options import EngineOptions
from livetalk_core.types import Reference, Start, StreamSettings

HEADER = struct.Struct("!Q")
RECEIVE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the workers of a pool run, and how they share the work."""

    num_workers: int
    ulysses_degree: int
    ring_degree: int
    gpus: tuple[str, ...] = ()
    """UUID of each worker's GPU; none: processes on the CPU."""
    reason: str = ""
    """Why this count and these degrees, for the user."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a worker makes its engine: a function "module:name", called with the worker's SequenceGroup (None for one worker) and options."""

    options: EngineOptions = EngineOptions()
    make: str = "livetalk_core.engine.load:load_member"
    grouped: bool = True
    """Whether the workers form a torch.distributed group."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Join the others and make the engine. The answer is Facts."""

    rank: int
    placement: Placement
    recipe: Recipe
    meeting: str
    """Address at which the workers find each other."""
    timeout_s: float
    """Of every exchange between workers; longer than any limit of the pool, which acts first."""
    num_threads: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the pool must know of the engine that its workers hold."""

    preset: object
    dtype: torch.dtype
    device: str
    """Type of the workers' devices: cpu or cuda."""


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Encode a picture and a prompt. The answer is a Reference on the CPU."""

    pixels_CHW: Tensor
    options: dict[str, object]
    """The engine's further arguments: prompt, speaker_masks_KHW, image_LD."""


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Audio features of sound [N]."""

    samples_N: Tensor
    loudness: bool


@dataclass(frozen=True, kw_only=True)
class Open:
    """Begin a stream under this number."""

    session: int
    reference: Reference
    settings: StreamSettings
    people: int
    latents: bool
    """Whether the first piece of a chunk comes with the chunk's latents."""
    start: Start | None = None


@dataclass(frozen=True, kw_only=True)
class OpenDecode:
    """Begin to decode latents [C, t, h, w]; Next gives the pieces."""

    session: int
    latents_CTHW: Tensor


@dataclass(frozen=True, kw_only=True)
class Push:
    """More sound, then the first piece of a chunk, if there is enough for one: the answer is Made or None."""

    session: int
    blocks: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The last sound, then the first piece of what is left: the answer is Made or None."""

    session: int
    blocks: list[Tensor]
    num_frames: int | None


@dataclass(frozen=True, kw_only=True)
class Next:
    """One more piece of a chunk, or of a decode: Made, or None when there is no more for now."""

    session: int


@dataclass(frozen=True, kw_only=True)
class Close:
    session: int


@dataclass(frozen=True, kw_only=True)
class Ping:
    """Nothing, at once; or frames of this shape, to time their way."""

    shape: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What a worker holds: memory, files, sessions. All ranks answer."""


@dataclass(frozen=True, kw_only=True)
class Shutdown:
    """Leave."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A piece of a chunk, or of a decode (index -1), whose picture lies in shared memory."""

    index: int = -1
    first_frame: int = 0
    samples: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    latents_CTHW: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A tensor in the order's slot of shared memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class Order:
    """A command with its number, and the slot for what is large in its answer."""

    job: int
    command: object
    slot: int


@dataclass(frozen=True, kw_only=True)
class Done:
    """An order carried out. Only rank 0 has a value, but for Stats."""

    job: int
    value: object = None
    parcel: Parcel | None = None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The user's mistake, found before any work; the worker is as it was."""

    job: int
    error: ValueError | FileNotFoundError


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The order was cancelled between two steps; the worker is ready for the next."""

    job: int


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The worker cannot go on and ends."""

    error: str
    """One line; the trace is in the log."""
    at: float
    """time.monotonic, which all processes of a machine share: whose error was first is to blame."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What rank 0 is doing: loading, or denoising step `step` of `steps`; or a line for the user."""

    text: str = ""
    warning: str = ""
    step: int = 0
    steps: int = 0


class TensorPickler(pickle.Pickler):
    """Tensors as their own bytes only, whatever storage they are a view of."""

    def reducer_override(self, value: object) -> object:
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            return rebuild_tensor, (flat.view(torch.uint8).numpy().tobytes(), value.dtype, tuple(value.shape))
        return NotImplemented


def rebuild_tensor(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8)).view(dtype).view(shape)


def pack(message: object) -> bytes:
    """A message with its length before it."""
    buffer = io.BytesIO()
    buffer.write(HEADER.pack(0))
    TensorPickler(buffer, protocol=5).dump(message)
    buffer.seek(0)
    buffer.write(HEADER.pack(buffer.getbuffer().nbytes - HEADER.size))
    return buffer.getvalue()


class Inbox:
    """Bytes in as they come, whole messages out."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> Iterator[object]:
        self.data += data
        while len(self.data) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(self.data)[0]
            if len(self.data) < end:
                return
            message = pickle.loads(memoryview(self.data)[HEADER.size : end])
            del self.data[:end]
            yield message


def messages(connection: socket.socket) -> Iterator[object]:
    """Messages of a blocking socket until its other end is closed."""
    inbox = Inbox()
    while data := connection.recv(RECEIVE_BYTES):
        yield from inbox.feed(data)
