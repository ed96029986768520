"""Messages between a pool and its workers: orders to the workers, answers and notes back.

Axes: T frames, H W size, C channels, P people, N samples, L tokens, D width, K masks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from livetalk_core.engine.options import EngineOptions
from livetalk_core.types import NoRoom, Reference, Shown, Start, StreamSettings


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a pool's workers run and how they share the work."""

    num_workers: int
    ulysses_degree: int
    ring_degree: int
    memory: str = "resident"
    """Where the DiT's weights are kept: resident, sharded or offload."""
    gpus: tuple[str, ...] = ()
    """UUID of each worker's GPU; empty for processes on the CPU."""
    reason: str = ""
    """Why this count and these degrees, for the user."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a worker makes its engine: a function "module:name", called with the worker's SequenceGroup (None for one worker) and options."""

    options: EngineOptions = EngineOptions()
    make: str = "livetalk_core.engine.load:load_member"
    prompt: str | None = None
    """The prompt that is used first, as a third argument; None: no such argument."""
    grouped: bool = True
    """Whether the workers form a torch.distributed group."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Join the group and make the engine. The answer is Facts."""

    rank: int
    placement: Placement
    recipe: Recipe
    meeting: str
    """torch.distributed address for the rendezvous of the workers."""
    timeout_s: float
    """Timeout of the workers' collectives; longer than every deadline of the pool, so that the pool acts first."""
    num_threads: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the pool must know about its workers' engine."""

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
class EncodeRows:
    """Begin to encode a prompt and, if given, a picture on rank 0, in a thread beside the streams; TakeRows returns the result."""

    number: int
    prompt: str | None
    pixels_CHW: Tensor | None


@dataclass(frozen=True, kw_only=True)
class TakeRows:
    """The answer is Rows once they are ready, else None."""

    number: int


@dataclass(frozen=True, kw_only=True)
class DropRows:
    """Forget an encoding that nobody waits for any more; it is not begun if it has not."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Arguments for the engine's `reference`, or the error."""

    rows: dict[str, Tensor] = field(default_factory=dict)
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Encode sound [N]. The answer is its features."""

    samples_N: Tensor
    loudness: bool


@dataclass(frozen=True, kw_only=True)
class Open:
    """Open a stream under this session number."""

    session: int
    reference: Reference
    settings: StreamSettings
    people: int
    latents: bool
    """Whether a chunk's first piece includes the chunk's latents."""
    start: Start | Shown | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)
    """Rows of the settings' texts."""


@dataclass(frozen=True, kw_only=True)
class OpenDecode:
    """Begin to decode latents [C, t, h, w]; Next returns the pieces."""

    session: int
    latents_CTHW: Tensor
    picture_CHW: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Push:
    """Add sound. The answer is Made with the first piece of a chunk, or None if the sound does not complete one."""

    session: int
    blocks: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Add the last sound. The answer is Made with the first remaining piece, or None."""

    session: int
    blocks: list[Tensor]
    num_frames: int | None


@dataclass(frozen=True, kw_only=True)
class Next:
    """Make one more piece of a chunk or decode. The answer is Made, or None if there is none left."""

    session: int


@dataclass(frozen=True, kw_only=True)
class SetPrompt:
    """Use these rows of a prompt from the stream's next chunk on."""

    session: int
    text_LD: Tensor


@dataclass(frozen=True, kw_only=True)
class Close:
    session: int


@dataclass(frozen=True, kw_only=True)
class Ping:
    """Answer at once; with a shape, with frames of that shape to time their transfer."""

    shape: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stats:
    """A worker's memory, files and sessions. All ranks answer."""


@dataclass(frozen=True, kw_only=True)
class Shutdown:
    """Exit."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A piece of a chunk, or of a decode (index -1); its frames are in shared memory."""

    index: int = -1
    first_frame: int = 0
    samples: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    latents_CTHW: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Shape and type of a tensor in the order's shared-memory slot."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class Order:
    """A command, its job number, and the slot for the large tensor of its answer."""

    job: int
    command: object
    slot: int


@dataclass(frozen=True, kw_only=True)
class Done:
    """The order succeeded. Only rank 0 sends a value, except for Stats."""

    job: int
    value: object = None
    parcel: Parcel | None = None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Bad input, or no memory for a stream, found before any work began; the worker's state is unchanged."""

    job: int
    error: ValueError | FileNotFoundError | NoRoom


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The order was cancelled between two steps; the worker is ready for the next."""

    job: int


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The worker failed and exits."""

    error: str
    """One line; the traceback is in the log."""
    at: float
    """time.monotonic, shared by all processes of a machine: the earliest error is the cause."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """Progress of rank 0: what it is loading, or denoising step `step` of `steps`; or a warning for the user."""

    text: str = ""
    warning: str = ""
    step: int = 0
    steps: int = 0
