"""A stream on a wire. Its chunks are computed, piece by piece, while a node reads them; later readers get what was kept.

Each chunk starts from the decoded end of the one before, so sampling and decoding cannot be separated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from . import engines, host, marks
from .film import Film, write_video
from .latent import join_latents
from .progress import Progress, showing_warnings
from .reference import picture_of
from .speech import Speech
from .spool import Spool

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.media.video import Seal
    from livetalk_core.provenance.watermark import Watermark
    from livetalk_core.types import Chunk, Reference, StreamSettings

    from .host import TempFile


@dataclass(kw_only=True, eq=False)
class TalkStream:
    """Everything that a stream is computed from, and what its first complete run has kept for later readers."""

    spec: engines.EngineSpec
    reference: Reference
    speech: Speech
    settings: StreamSettings
    spool: Spool | None = field(default=None, init=False)
    video: TempFile | None = field(default=None, init=False)
    note: str = field(default="", init=False)
    """What the core has measured in that run: the error of a lossy setting."""

    @property
    def width(self) -> int:
        return self.reference.pixels_CHW.shape[2]

    @property
    def height(self) -> int:
        return self.reference.pixels_CHW.shape[1]

    @property
    def picture(self) -> Tensor:
        """The video's crop of the picture [H, W, 3] in [0, 1]."""
        return picture_of(self.reference)

    @property
    def num_frames(self) -> int:
        return self.speech.num_frames

    @cached_property
    def mark(self) -> Watermark | None:
        """The stream's own watermark, if videos are marked: in every frame that leaves it."""
        return marks.marking().watermark()

    @property
    def model_name(self) -> str:
        return PurePath(self.spec.model).name

    def seal(self) -> Seal | None:
        return marks.seal_of(self.model_name, self.reference, self.speech, self.mark)

    @property
    def kept(self) -> Spool | None:
        """What an earlier complete run has kept, if all of it is still there: people empty ComfyUI's temporary folder while it runs."""
        return self.spool if self.spool is not None and self.spool.is_whole() else None

    def chunks(self, pictures: bool = True) -> Iterator[Chunk]:
        """The chunks, in pieces: those of an earlier complete run, or computed now and kept. `pictures`: show them on the running node."""
        return self.run(pictures) if self.kept is None else self.kept.chunks()

    def run(self, pictures: bool) -> Iterator[Chunk]:
        """Compute the chunks. Everything is kept on disk, unless it is too large; then later readers compute it again."""
        spool, latents, progress = Spool(host.temp_path("_stream"), host.spool_limit()), [], Progress(self.num_frames, pictures)
        with showing_warnings(progress):
            for piece in self.make(progress.step, latents.append):
                spool.add(piece, latents)
                latents.clear()
                progress.add(piece)
                yield piece
        self.spool, self.note = None if spool.overflowed else spool, progress.note

    def make(self, on_step: Callable[[int, int], None], on_latents: Callable[[Tensor], None]) -> Iterator[Chunk]:
        """Run the engine. When the user stops the prompt, it stops between two steps."""
        from livetalk_core.generate import talk
        from livetalk_core.job import with_silent

        engine = engines.engine_for(self.spec)
        people = 1 if self.reference.speaker_masks_KHW is None else 2
        opened = engine.open(self.reference, self.settings, people, on_step, on_latents)
        try:
            for piece in talk(opened, with_silent(self.speech.blocks(), people), self.num_frames):
                yield piece if self.mark is None else replace(piece, frames_THWC=self.mark(piece.frames_THWC))
        finally:
            opened.close()

    def write(self, watch: Callable[[Chunk], None] | None = None) -> TempFile:
        """The stream's video file, written now unless it is there. `watch` is called with each piece, which it shows to the user."""
        if self.video is None or not Path(self.video).exists():
            self.video = write_video(self.film(watch))
        return self.video

    def film(self, watch: Callable[[Chunk], None] | None = None) -> Film:
        """The stream's frames and sound."""

        def pieces() -> Iterator[Tensor]:
            for piece in self.chunks(pictures=watch is None):
                if watch is not None:
                    watch(piece)
                yield piece.frames_THWC

        return Film(width=self.width, height=self.height, num_frames=self.num_frames, pieces=pieces, speech=self.speech, seal=self.seal())

    def latents(self) -> Tensor:
        """Normalized latents [C, t, h, w] of the whole stream: the picture's latent frame, then the new ones."""
        if self.kept is None:
            chunks = []
            for _ in self.make(Progress(self.num_frames).step, lambda latents_CTHW: chunks.append(latents_CTHW.cpu())):
                pass
        else:
            chunks = self.kept.latents()
        plan = engines.engine_for(self.spec).plan(self.width, self.height)
        return join_latents(chunks, self.reference.first_CTHW.cpu(), plan.motion_latents, self.num_frames, plan.temporal_stride)
