"""What travels between the parts, and the protocols they meet at.

Axes in names: T frames (latent frames in latents), H W size, C channels, L tokens, D width, P people, W audio window, S audio layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AudioWindow:
    """The sound of one chunk, as the DiT hears it."""

    index: int
    """Chunk number, from 0."""
    features_PTWSD: Tensor
    """[people, 33, 5, 12, 768] float32: per frame the encoder layers of the frames i - 2 .. i + 2."""
    samples: Tensor
    """[17920] mono float32 in [-1, 1], 16 kHz: the new frames' sound (all people mixed)."""
    num_valid: int
    """How many of the new frames to keep: all but in the last chunk of a stream."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The identity of a stream: picture and prompt, encoded once."""

    text_LD: Tensor
    """[rows, 4096] umT5 rows, before padding."""
    image_LD: Tensor
    """[257, 1280] CLIP features of the picture."""
    cond_CTHW: Tensor
    """[4 + 16, t, h, w]: mask (1 in latent frame 0) and latents of [picture, grey, grey, ...]."""
    first_CTHW: Tensor
    """[16, 1, h, w]: the picture's own latent frame, motion latents of the first chunk."""
    pixels_CHW: Tensor
    """[3, H, W] in [-1, 1]: the picture as cropped; colour is held to it."""
    speaker_masks_KHW: Tensor | None = None
    """[people + 1, H', W'] 0 or 1: where each person is, and last the background. None for one speaker."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Finished video, a chunk's or a piece of it: frames follow on from the last piece's without gap or overlap.

    A chunk leaves in pieces, as its frames are decoded: of 28 new frames 4, 12 and 12; fewer at the end of a stream.
    """

    index: int
    """Of the chunk, so of its window; the same in all its pieces."""
    first_frame: int
    """Of these frames, counted from the stream's start."""
    frames_THWC: Tensor
    """uint8 on the CPU."""
    samples: Tensor
    """Mono float32 16 kHz sound of these frames, 640 a frame."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time spent since the piece before by stage: decode, color; with a chunk's first piece audio and denoise too, and the encode that
    gave its motion latents after the last piece of the chunk before."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a stream goes on that was stopped: the chunk it makes first, and what that begins with. Sound is pushed from the start."""

    index: int
    motion_CTHW: Tensor
    """Motion latents, as they stand first in that chunk's latents."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """What one stream may choose. Raises ValueError for values out of range."""

    seed: int = 9999
    steps: int = 4
    shift: float | None = None
    """Of the schedule's times; None: the model's own (published: 5)."""
    last_noise: float | None = None
    """0 to 1: how much of the noise before the last step is added; None: the model's own (published: 1)."""
    color_strength: float = 1.0
    loudness: bool = True
    """Bring the sound to -23 LUFS before the audio encoder, as in training."""
    whole_audio: bool = False
    """Encode the whole recording at once, past and future, when it ends; else the last 8 s, as it comes."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be 0 to 2^63 - 1; the default is 9999")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be 1 or more; the model was distilled for 4")
        if self.shift is not None and not self.shift > 0:
            raise ValueError(f"shift={self.shift} must be above 0; leave it out for the model's own")
        if self.last_noise is not None and not 0 <= self.last_noise <= 1:
            raise ValueError(f"last_noise={self.last_noise} must be 0 (none) to 1 (as trained); leave it out for the model's own")
        if not 0 <= self.color_strength <= 1:
            raise ValueError(f"color_strength={self.color_strength} must be 0 (off) to 1 (colours held to the picture)")


class Denoiser(Protocol):
    """Hides what the network predicts: x0 = x - t v."""

    def __call__(self, x_CTHW: Tensor, t: float, reference: Reference, window: AudioWindow, motion_latents: int) -> Tensor:
        """x0 [C, T, H, W] float32 from x at flow time t in [0, 1]; in the first `motion_latents` frames, which are known, anything."""
        ...


class VideoVAE(Protocol):
    """Pixels in [-1, 1] to normalised latents and back; causal in time."""

    def encode(self, video_CTHW: Tensor) -> Tensor:
        """[3, 4 k + 1, H, W] -> [C, k + 1, h, w]."""
        ...

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Iterator[Tensor]:
        """[C, t, h, w] -> pieces of [3, 4 t - 3, H, W], one per group of latent frames; the same pixels for any groups."""
        ...


class AvatarStream(Protocol):
    """One talking picture. Chunks come out, in pieces, as soon as the sound for them is in.

    A reader that leaves an iterator before its end gets the rest from the next call's.
    """

    def push(self, samples_PN: Tensor) -> Iterator[Chunk]:
        """Add 16 kHz sound, [people, N] or [N] float32; yields the chunks it completes, in pieces."""
        ...

    def finish(self, num_frames: int | None = None) -> Iterator[Chunk]:
        """No more sound: yields what is left, to `num_frames` in all (default: what the seconds pushed come to)."""
        ...

    def close(self) -> None: ...


class AvatarEngine(Protocol):
    """Loaded models, ready to talk: in this process or in a pool of workers."""

    def open(self, reference: Reference, settings: StreamSettings) -> AvatarStream: ...

    def close(self) -> None: ...
