"""One stream: a window in, a chunk out in pieces, motion latents carried to the next chunk. Memory does not grow."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.stream.blinks import with_blinks
from livetalk_core.stream.clock import Spans, StageClock
from livetalk_core.stream.color import lab_stats, match_color
from livetalk_core.stream.condition import encode_motion
from livetalk_core.stream.flow import Noise, first_motion, skip_noise, steps_of, times_of
from livetalk_core.stream.host_copy import HostCopy
from livetalk_core.types import AudioWindow, Chunk, Denoiser, Reference, Start, StreamSettings, VideoVAE

OnStep = Callable[[int, int], None]
"""Called with (step, steps) before each denoising step, and with (steps, steps) before each piece of the decode and before the motion is
encoded; may raise to stop."""

OnLatents = Callable[[Tensor], None]
"""Called with each chunk's finished latents [C, t, h, w], motion latents first, before they are decoded."""

DECODE_GROUPS = (3,)
"""Latent frames decoded at a time, which bounds memory. The first three are two motion latents and a new one, so the first new frames are
ready after a third of the work. The pixels are the same for any groups."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """New frames that the device has queued or finished."""

    first: int
    """Index of its first frame among the chunk's new frames."""
    count: int
    arrive: Callable[[], Tensor]
    """Waits for the frames and returns them: uint8 [T, H, W, 3] on the host."""
    spans: Spans


class BegunDecode:
    """A chunk's decode, of which only the motion latents are there yet."""

    def __init__(self, vae: VideoVAE, motion_CTHW: Tensor):
        parts = self.parts = deque(motion_CTHW.float().split(DECODE_GROUPS[-1], dim=1))
        self.pieces = vae.decode_later(parts.popleft() for _ in itertools.count())  # not self.parts: a circle would live on after its end
        for _ in range(len(parts)):
            next(self.pieces)

    def go_on(self, latents_CTHW: Tensor) -> Iterator[Tensor]:
        """Pieces of the new latents' frames: the first latent alone, then as many at a time as in any decode."""
        sizes = [1, *[DECODE_GROUPS[-1]] * (latents_CTHW.shape[1] // DECODE_GROUPS[-1] + 1)]
        for part_CTHW in split_up_to(latents_CTHW, sizes):
            self.parts.append(part_CTHW)
            yield next(self.pieces)


class Session:
    """Makes the chunks of one stream in order. Not for use by several threads at once."""

    def __init__(
        self,
        plan: StreamPlan,
        denoiser: Denoiser,
        vae: VideoVAE,
        reference: Reference,
        settings: StreamSettings,
        noise: Noise,
        on_step: OnStep | None = None,
        on_latents: OnLatents | None = None,
        start: Start | None = None,
        on_denoised: Callable[[], None] = lambda: None,
        prompts: Sequence[tuple[int, Tensor]] = (),
        describe: Callable[[Tensor], Tensor] | None = None,
        motion_apart: bool = False,
        blinks: bool = False,
    ):
        """`on_denoised` is called after a chunk's last step, also if the steps were stopped. `prompts`: each prompt's first chunk and
        rows [L, D], in order. `describe` makes CLIP features of a frame [3, H, W], for a model whose condition shows the motion frames.
        `motion_apart`: motion latents are decoded as a group of their own, so that `prepare` can do it before a chunk's sound is there.
        `blinks`: whether the model has learned to blink."""
        self.describe = describe
        self.on_denoised, self.motion_apart = on_denoised, motion_apart
        self.plan, self.denoiser, self.vae, self.reference, self.settings = plan, denoiser, vae, reference, settings
        self.noise, self.on_step, self.on_latents = noise, on_step, on_latents
        self.times = times_of(settings)
        self.prompts, self.new_prompt_LD = deque(prompts), None
        self.target = lab_stats(reference.pixels_CHW[:, None].float())
        self.motion_CTHW = first_motion(settings, reference)
        self.clock, self.host_copy = StageClock(self.motion_CTHW.device), HostCopy(self.motion_CTHW.device)
        self.blinks = blinks
        self.next_index, self.begun = 0, None
        if start is not None:
            self.resume_at(start)

    @torch.no_grad()
    def step(self, window: AudioWindow, on_launched: Callable[[], None] = lambda: None) -> Iterator[Chunk]:
        """The chunk of this window, in pieces, each yielded as soon as it is decoded. Windows must come in order. Each must be read to its
        end, since the next chunk's motion latents are encoded after the last piece. `on_launched` is called when the device has all of
        the chunk's work."""
        assert window.index == self.next_index, f"window {window.index} came when {self.next_index} was due"
        on_their_way: deque[Piece] = deque()
        for piece in self.make(window):
            on_their_way.append(piece)
            if len(on_their_way) > self.host_copy.pieces_ahead:
                yield self.arrived(on_their_way.popleft(), window)
        on_launched()
        while on_their_way:
            yield self.arrived(on_their_way.popleft(), window)

    def resume_at(self, start: Start) -> None:
        """Begin at a later chunk. Noise of the chunks before is drawn and dropped, so that the generator's state is the same.
        ValueError if the condition shows the motion frames, whose pixels would be needed too."""
        if self.describe is not None:
            raise ValueError(
                "this model's condition shows the chunk before, so a stream cannot begin in the middle; make it from its start"
            )
        for _ in range(start.index):
            skip_noise(self.settings, self.noise, self.motion_CTHW.dtype)
        self.motion_CTHW = start.motion_CTHW.to(self.motion_CTHW)
        self.next_index = start.index

    def make(self, window: AudioWindow) -> Iterator[Piece]:
        """The pieces as they are launched. A window that is not full is the stream's last: only its valid frames are made."""
        with self.clock.stage("denoise"):
            latents_CTHW = self.denoise(window)
        if self.on_latents is not None:
            self.on_latents(latents_CTHW)
        apart = self.decodes_apart
        first, tail_CTHW = 0 if apart else -self.plan.motion_frames, None
        for piece_CTHW in self.decode(self.pieces_after_motion(latents_CTHW) if apart else self.vae.decode(latents_CTHW, DECODE_GROUPS)):
            with self.clock.stage("color"):
                frames_THWC = self.new_frames(piece_CTHW, first, window.num_valid)
            end = first + piece_CTHW.shape[1]
            if end > 0:
                place = {"first": max(0, first), "count": min(end, window.num_valid) - max(0, first)}
                yield Piece(**place, arrive=self.host_copy.send(frames_THWC), spans=self.clock.take())
            if window.num_valid < self.plan.new_frames and end >= window.num_valid:
                return
            first, tail_CTHW = end, piece_CTHW if tail_CTHW is None else torch.cat([tail_CTHW, piece_CTHW], dim=1)
            tail_CTHW = tail_CTHW[:, -self.plan.motion_frames :]
        with self.clock.stage("encode"):
            if self.describe is None:
                self.motion_CTHW = self.vae.encode(tail_CTHW)
            else:
                self.show_motion(tail_CTHW)
        self.next_index += 1

    def show_motion(self, tail_CTHW: Tensor) -> None:
        """Make the last frames the next chunk's condition, and the very last one its picture."""
        cond_CTHW = encode_motion(self.vae, tail_CTHW, self.plan)
        self.motion_CTHW = cond_CTHW[self.plan.temporal_stride :, : self.plan.motion_latents]
        self.reference = replace(self.reference, cond_CTHW=cond_CTHW, image_LD=self.describe(self.whole_frame(tail_CTHW[:, -1:])[:, 0]))

    def whole_frame(self, frame_CTHW: Tensor) -> Tensor:
        """A frame [3, 1, H, W] of which this process may have a part."""
        return frame_CTHW

    def arrived(self, piece: Piece, window: AudioWindow) -> Chunk:
        """Wait for a piece; returns it with its sound."""
        rate, frames_THWC = self.plan.samples_per_frame, piece.arrive()
        return Chunk(
            index=window.index,
            first_frame=window.index * self.plan.new_frames + piece.first,
            frames_THWC=frames_THWC,
            samples=window.samples[piece.first * rate : (piece.first + piece.count) * rate],
            seconds=piece.spans.seconds(),
        )

    def denoise(self, window: AudioWindow) -> Tensor:
        """Latents [C, t, h, w] of the chunk, motion latents in place."""
        x0 = None
        self.change_prompt(window.index)
        reference = with_blinks(self.reference, window.index, self.plan, self.settings.seed) if self.blinks else self.reference
        steps = steps_of(self.settings, self.denoiser, self.motion_CTHW, self.times, self.noise, reference, window)
        try:
            for i in range(self.settings.steps):
                self.announce(i)
                x0 = next(steps)
        finally:
            self.on_denoised()
        return x0

    def set_prompt(self, text_LD: Tensor) -> None:
        """Use this prompt's rows from the next chunk on, until another prompt is due."""
        self.new_prompt_LD = text_LD

    def change_prompt(self, index: int) -> None:
        """Take the prompt that is due for a chunk, if it is a new one."""
        due_LD = None
        while self.prompts and self.prompts[0][0] <= index:
            due_LD = self.prompts.popleft()[1]
        if self.new_prompt_LD is not None:
            due_LD, self.new_prompt_LD = self.new_prompt_LD, None
        if due_LD is not None:
            self.reference = replace(self.reference, text_LD=due_LD)

    @property
    def decodes_apart(self) -> bool:
        """Whether the next chunk's motion latents are decoded before its others: not the first chunk's, which are fewer."""
        return self.motion_apart and self.motion_CTHW.shape[1] == self.plan.motion_latents

    @torch.no_grad()
    def prepare(self) -> None:
        """Decode the motion latents of the next chunk, if that is not done yet. Nobody sees their frames, but the next ones need them."""
        if self.begun is None and self.decodes_apart:
            with self.clock.stage("decode"):
                self.begun = BegunDecode(self.vae, self.motion_CTHW)

    def pieces_after_motion(self, latents_CTHW: Tensor) -> Iterator[Tensor]:
        """The decoded frames after the motion frames, piece by piece."""
        self.prepare()
        begun, self.begun = self.begun, None
        return begun.go_on(latents_CTHW[:, self.plan.motion_latents :])

    def decode(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """Decoded pieces [3, T, H, W] in [-1, 1], timed and color-matched."""
        while True:
            self.announce(self.settings.steps)
            with self.clock.stage("decode"):
                piece_CTHW = next(pieces, None)
            if piece_CTHW is None:
                return
            with self.clock.stage("color"):
                piece_CTHW = self.matched(piece_CTHW)
            yield piece_CTHW

    def announce(self, step: int) -> None:
        """Report progress to the caller, who can raise to stop the stream."""
        if self.on_step is not None:
            self.on_step(step, self.settings.steps)

    def matched(self, piece_CTHW: Tensor) -> Tensor:
        """Decoded frames [3, T, H, W] matched to the reference's colors, float32."""
        return match_color(piece_CTHW.float(), self.target, self.settings.color_strength)

    def new_frames(self, piece_CTHW: Tensor, first: int, num_valid: int) -> Tensor:
        """A piece's frames that are shown, uint8 [T, H, W, 3]. `first`: index of its first frame; the chunk's new frames begin at 0."""
        return to_uint8(piece_CTHW[:, max(0, -first) : max(0, num_valid - first)])


def split_up_to(latents_CTHW: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """Parts of at most these many latent frames, until there are none left."""
    for size in sizes:
        if latents_CTHW.shape[1]:
            yield latents_CTHW[:, :size]
        latents_CTHW = latents_CTHW[:, size:]


def to_uint8(video_CTHW: Tensor) -> Tensor:
    """[-1, 1] -> uint8 [T, H, W, 3], truncated as the published system does."""
    return (((video_CTHW + 1) / 2).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 3, 0).contiguous()
