"""The DiT as a Denoiser: what is constant over a chunk, a stream or a schedule is computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from livetalk_core.models.dit import AudioDiT, ContextKeys, KeyValue, TimeEmbedding
from livetalk_core.types import AudioWindow, Reference


class DiTDenoiser:
    """x0 from x by the DiT's velocity: x0 = x - t v. Holds the keys of one stream, so make one for each."""

    def __init__(self, dit: AudioDiT):
        self.dit = dit
        self.reference: Reference | None = None
        self.context: list[ContextKeys] = []
        self.window: AudioWindow | None = None
        self.audio: list[KeyValue] = []
        self.times: dict[float, TimeEmbedding] = {}

    def __call__(self, x_CTHW: Tensor, t: float, reference: Reference, window: AudioWindow) -> Tensor:
        """x0 [C, T, H, W] float32."""
        self.hold(reference, window, x_CTHW.device)
        if t not in self.times:
            self.times[t] = self.dit.embed_time(torch.tensor([1000 * t], dtype=torch.float32, device=x_CTHW.device))
        masks = reference.speaker_masks_KHW
        velocity = self.dit(x_CTHW[None], reference.cond_CTHW[None], self.times[t], self.context, self.audio, masks)
        return x_CTHW - t * velocity[0]

    def hold(self, reference: Reference, window: AudioWindow, device: torch.device) -> None:
        """Compute the keys of a new picture and prompt, or of a new window's sound."""
        if reference is not self.reference:
            self.context = self.dit.embed_context(reference.text_LD[None], reference.image_LD[None])
            self.reference = reference
        if window is not self.window:
            self.audio = self.dit.embed_audio(window.features_PTWSD[None].flatten(-2).to(device))
            self.window = window
