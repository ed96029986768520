"""Data types and protocols that connect the parts.

Axes in names: T frames (latent frames in latents), H W size, C channels, L tokens, D width, P people, W audio window, S audio layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AudioWindow:
    """The sound of one chunk, as input of the DiT."""

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
    """A stream's picture and prompt, encoded once."""

    text_LD: Tensor
    """[rows, 4096] umT5 rows, before padding."""
    image_LD: Tensor
    """[257, 1280] CLIP features of the picture."""
    cond_CTHW: Tensor
    """[4 + 16, t, h, w]: mask (1 in latent frame 0) and latents of [picture, gray, gray, ...]."""
    first_CTHW: Tensor
    """[16, 1, h, w]: the picture's own latent frame, motion latents of the first chunk."""
    pixels_CHW: Tensor
    """[3, H, W] in [-1, 1]: the cropped picture; colors are matched to it."""
    speaker_masks_KHW: Tensor | None = None
    """[people + 1, H', W'] 0 or 1: where each person is, and last the background. None for one speaker."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Finished frames: a chunk or a piece of one. They follow the previous piece's frames without gap or overlap.

    A chunk comes in pieces as its frames are decoded: 4, 12 and 12 of 28 new frames; fewer at the end of a stream.
    """

    index: int
    """Index of the chunk and its window; the same in all its pieces."""
    first_frame: int
    """Index of the first of these frames, counted from the stream's start."""
    frames_THWC: Tensor
    """uint8 on the CPU."""
    samples: Tensor
    """Mono float32 16 kHz sound of these frames, 640 a frame."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds per stage since the previous piece; a chunk's first piece also has audio, denoise and the encode of its motion latents."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where to resume a stream: its first chunk and that chunk's motion latents. Sound is still pushed from the start."""

    index: int
    motion_CTHW: Tensor
    """The first latents of that chunk."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a viewer saw and heard last, for a new stream that goes on from there."""

    frames_THWC: Tensor
    """[T, H, W, 3] uint8, as many as the motion frames of a chunk: 5 by default."""
    samples_N: Tensor
    """Mono float32 16 kHz sound up to the end of these frames; the last 8 s are used."""
    ahead_s: float = 0.0
    """Seconds until the last of these frames will have been shown. A stream in a pool is made in that order, among other streams."""


@dataclass(frozen=True, kw_only=True)
class TimedPrompt:
    """A prompt from a time on. Raises ValueError for a negative time or an empty text."""

    seconds: float
    """It begins with the first chunk that starts then or later."""
    text: str

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"prompt at {self.seconds:g} s: the time must be 0 or more seconds from the start")
        if not self.text.strip():
            raise ValueError(f"prompt at {self.seconds:g} s: the text is empty; write it after the colon, or leave the line out")


SAMPLERS = ("renoise", "euler", "euler_noised")


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Settings of one stream. None is the model's own value. Raises ValueError for values out of range."""

    seed: int = 9999
    steps: int | None = None
    """Denoising steps a chunk (published: 4)."""
    shift: float | None = None
    """Shift of the schedule's times (published: 5)."""
    last_noise: float | None = None
    """Scale of the noise before the last step, 0 to 1 (published: 1)."""
    color_strength: float = 1.0
    loudness: bool = True
    """Normalize the sound to -23 LUFS before the audio encoder, as in training."""
    whole_audio: bool = False
    """Encode the whole recording at once when it ends, instead of the last 8 s of each chunk."""
    audio_strength: float = 1.0
    """Multiplies the output of the DiT's audio attention, 0 to 2."""
    prompts: tuple[TimedPrompt, ...] = ()
    """Prompts that replace the reference's later on."""
    text_guidance: float | None = None
    """Scale of guidance by the prompt, 0 to 20; 1 is none (published: 1, for InfiniteTalk 5)."""
    audio_guidance: float | None = None
    """Scale of guidance by the sound, 0 to 20; 1 is none (published: 1, for InfiniteTalk 4)."""
    negative_prompt: str | None = None
    """What guidance by the prompt leads away from."""
    sampler: str | None = None
    """One of SAMPLERS; see stream/flow.py."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be 0 to 2^63 - 1; the default is 9999")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps} must be 1 or more; leave it out for the model's own")
        if self.shift is not None and not self.shift > 0:
            raise ValueError(f"shift={self.shift} must be above 0; leave it out for the model's own")
        if self.last_noise is not None and not 0 <= self.last_noise <= 1:
            raise ValueError(f"last_noise={self.last_noise} must be 0 (none) to 1 (as trained); leave it out for the model's own")
        if not 0 <= self.color_strength <= 1:
            raise ValueError(f"color_strength={self.color_strength} must be 0 (off) to 1 (colors matched to the picture)")
        if not 0 <= self.audio_strength <= 2:
            raise ValueError(f"audio_strength={self.audio_strength} must be 0 (the sound moves nothing) to 2; 1 is as trained")
        for name in ("text_guidance", "audio_guidance"):
            if (scale := vars(self)[name]) is not None and not 0 <= scale <= 20:
                raise ValueError(f"{name}={scale} must be 0 to 20; 1 is none, and leave it out for the model's own")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler={self.sampler!r} must be one of {', '.join(SAMPLERS)}")

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that must be encoded beside the reference's prompt, of settled settings."""
        negative = (self.negative_prompt or "",) if self.text_guidance not in (None, 1) else ()
        return (*negative, *(prompt.text for prompt in self.prompts))


class NoRoom(RuntimeError):
    """No memory for another stream. Those that are open go on."""


class Denoiser(Protocol):
    """Hides what the network predicts: x0 = x - t v."""

    def __call__(self, x_CTHW: Tensor, t: float, reference: Reference, window: AudioWindow, motion_latents: int) -> Tensor:
        """x0 [C, T, H, W] float32 from x at flow time t in [0, 1]; values of the first `motion_latents` frames do not matter."""
        ...


class VideoVAE(Protocol):
    """Pixels in [-1, 1] to normalized latents and back; causal in time."""

    def encode(self, video_CTHW: Tensor) -> Tensor:
        """[3, 4 k + 1, H, W] -> [C, k + 1, h, w]."""
        ...

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Iterator[Tensor]:
        """[C, t, h, w] -> pieces of [3, 4 t - 3, H, W], one per group of latent frames; the same pixels for any groups."""
        ...

    def decode_later(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same for latents that come part by part: a piece for each, decoded when it is asked for. Only sessions that decode motion
        apart call it."""
        ...


class AvatarStream(Protocol):
    """One talking picture. Yields chunks, in pieces, as soon as their sound is complete.

    If a reader stops before an iterator's end, the next call's iterator gives the rest.
    """

    def push(self, samples_PN: Tensor) -> Iterator[Chunk]:
        """Add 16 kHz sound, [people, N] or [N] float32; yields the chunks it completes, in pieces."""
        ...

    def finish(self, num_frames: int | None = None) -> Iterator[Chunk]:
        """End the sound: yields the remaining frames, up to `num_frames` in all (default: the length of the pushed sound)."""
        ...

    def set_prompt(self, text: str) -> None:
        """Change the prompt from the next chunk on. Waits for the text encoder; chunks are made meanwhile. May be called by any thread."""
        ...

    def close(self) -> None: ...


class AvatarEngine(Protocol):
    """Loaded models that make streams, in this process or in a pool of workers."""

    def open(self, reference: Reference, settings: StreamSettings) -> AvatarStream: ...

    def close(self) -> None: ...
