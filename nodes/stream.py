"""A stream on a wire. Its chunks are computed, piece by piece, while a node reads them.

Each chunk starts from the decoded end of the one before, so sampling and decoding cannot be separated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import engines, host
from .speech import Speech
from .spool import Spool

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.types import Chunk, Reference, StreamSettings

MOTION_FRAMES = "livetalk_motion_frames"
NUM_FRAMES = "livetalk_num_frames"
"""Extra entries of our LATENT: frames to drop at the start of its video, and frames to keep after those."""


@dataclass(kw_only=True, eq=False)
class TalkStream:
    """Everything that a stream is computed from. Each run gives the same chunks."""

    spec: engines.EngineSpec
    reference: Reference
    speech: Speech
    settings: StreamSettings
    keep: bool = False
    """Store what is made on disk, for a second reader in the same run."""
    spool: Spool | None = field(default=None, init=False)

    @property
    def width(self) -> int:
        return self.reference.pixels_CHW.shape[2]

    @property
    def height(self) -> int:
        return self.reference.pixels_CHW.shape[1]

    @property
    def num_frames(self) -> int:
        return self.speech.num_frames

    def chunks(self) -> Iterator[Chunk]:
        """The chunks, in pieces: computed, or read from disk after a complete run that was stored."""
        if self.spool is not None and self.spool.complete:
            return self.spool.chunks()
        return self.make_kept() if self.keep else self.make()

    def make(self, on_latents=None) -> Iterator[Chunk]:
        """Run the engine. When the user stops the prompt, it stops between two steps."""
        from livetalk_core.generate import talk
        from livetalk_core.job import with_silent

        engine = engines.engine_for(self.spec)
        people = 1 if self.reference.speaker_masks_KHW is None else 2
        opened = engine.open(self.reference, self.settings, people, host.check_interrupt, on_latents)
        try:
            yield from talk(opened, with_silent(self.speech.blocks(), people), self.num_frames)
        finally:
            opened.close()

    def make_kept(self) -> Iterator[Chunk]:
        """Run the engine and store every piece on disk."""
        spool, latents = Spool(host.temp_path("_stream")), []
        for chunk in self.make(latents.append):
            spool.add(chunk, latents)
            latents.clear()
            yield chunk
        spool.complete, self.spool = True, spool

    def latents(self) -> Tensor:
        """Normalized latents of the whole stream [C, t, h, w]: all of the first chunk, then each chunk's new ones."""
        import torch

        if self.spool is None or not self.spool.complete:
            self.keep = True
            for _ in with_progress(self.chunks(), self.num_frames):
                pass
        first, *rest = self.spool.latents()
        motion = engines.engine_for(self.spec).plan(self.width, self.height).motion_latents
        return torch.cat([first, *(latents_CTHW[:, motion:] for latents_CTHW in rest)], dim=1)


def with_progress(chunks: Iterator[Chunk], total: int) -> Iterator[Chunk]:
    """The same chunks; after each, the running node shows the frames done and the last picture."""
    done = 0
    for chunk in chunks:
        done += len(chunk.frames_THWC)
        host.show_progress(done, total, chunk.frames_THWC[-1])
        yield chunk


class LazyLatent(dict):
    """The LATENT of a stream. Its entries are computed when a node first accesses the dict, in any way."""

    def __init__(self, stream: TalkStream) -> None:
        super().__init__()
        self.stream: TalkStream | None = stream

    def fill(self) -> None:
        """Run the stream, once. Samples [1, C, t, h, w] are in the VAE's own scale, as core nodes expect."""
        if self.stream is None:
            return
        engine = engines.engine_for(self.stream.spec)
        plan = engine.plan(self.stream.width, self.stream.height)
        raw_CTHW = engine.preset.vae.unscale(self.stream.latents())
        self.update({"samples": raw_CTHW[None].float().cpu(), MOTION_FRAMES: plan.motion_frames, NUM_FRAMES: self.stream.num_frames})
        self.stream = None

    def __missing__(self, name: str):
        if self.stream is None:
            raise KeyError(name)
        self.fill()
        return self[name]

    def __contains__(self, name: object) -> bool:
        self.fill()
        return super().__contains__(name)

    def __iter__(self):
        self.fill()
        return super().__iter__()

    def keys(self):
        self.fill()
        return super().keys()

    def items(self):
        self.fill()
        return super().items()

    def get(self, name, default=None):
        self.fill()
        return super().get(name, default)

    def copy(self) -> dict:
        self.fill()
        return dict(super().items())
