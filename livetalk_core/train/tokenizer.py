"""The VAE of a small model, trained from nothing: pictures and their edges rebuilt, the mouth above all, latents held near a normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from livetalk_core.models.convolution import CausalConv3d, TimeConv
from livetalk_core.models.vae import CausalVAE, VAEConfig
from livetalk_core.train.config import Tokenizer
from livetalk_core.train.draws import Draws
from livetalk_core.train.learner import Learner

FIRST_LOG_VARIANCE = -6.0
"""Of the latents before training: the noise on them starts small."""


@dataclass(frozen=True, kw_only=True)
class PixelClip:
    """A few frames, uint8 [3, 4 k + 1, H, W], and where the mouth is, bool [H, W]."""

    frames_CTHW: Tensor
    mouth_HW: Tensor

    def to(self, device: torch.device) -> PixelClip:
        return replace(self, frames_CTHW=self.frames_CTHW.to(device), mouth_HW=self.mouth_HW.to(device))


class Autoencoder(nn.Module):
    """A CausalVAE there and back in one forward."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.vae = CausalVAE(config)

    def forward(self, video_BCTHW: Tensor, noise_BCTHW: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Frames [B, 3, T, H, W] in [-1, 1] -> (frames again, mean and log variance of the raw latents); no noise: the mean's frames."""
        vae = self.vae
        mean, log_variance = vae.conv1(vae.encoder(video_BCTHW.to(vae.conv1.weight.dtype), None), None).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        z = mean if noise_BCTHW is None else mean + (0.5 * log_variance).exp() * noise_BCTHW
        return vae.decoder(vae.conv2(z.to(vae.conv2.weight.dtype), None), None).float(), mean.clone(), log_variance


class TokenizerStage:
    """Updates a VAE on clips of pixels."""

    def __init__(self, config: Tokenizer, learner: Learner, latent_shape: tuple[int, int, int, int]):
        self.config, self.learner, self.latent_shape = config, learner, latent_shape
        self.learners = {"net": learner}
        self.chief = learner

    def step(self, passes: Sequence[Sequence[tuple[PixelClip, Draws]]], everyone: Draws, number: int) -> dict[str, Tensor]:
        losses = [lambda batch=batch: self.loss(batch) for batch in passes]
        loss, norm = self.learner.update(losses)
        return {"loss": loss, "grad_norm": norm}

    def loss(self, batch: Sequence[tuple[PixelClip, Draws]]) -> Tensor:
        video_BCTHW = torch.stack([clip.frames_CTHW for clip, _ in batch]).float() / 127.5 - 1
        like = video_BCTHW.new_empty(self.latent_shape)
        noise_BCTHW = torch.stack([draws.noise("latents", like) for _, draws in batch])
        again_BCTHW, mean, log_variance = self.learner.net(video_BCTHW, noise_BCTHW)
        weight_BHW = 1 + self.config.mouth_weight * torch.stack([clip.mouth_HW for clip, _ in batch]).float()
        picture = rebuild_loss(again_BCTHW, video_BCTHW, weight_BHW[:, None, None], self.config.edge_weight)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return picture + self.config.kl_weight * kl


def rebuild_loss(again_BCTHW: Tensor, video_BCTHW: Tensor, weight: Tensor, edge_weight: float) -> Tensor:
    """Weighted mean |difference| of the pictures, and of their steps to the right, down and to the next frame."""
    error = again_BCTHW - video_BCTHW
    loss = (weight * error.abs()).mean()
    for dim in (-1, -2, -3):
        if error.shape[dim] > 1:
            step = error.diff(dim=dim).abs()
            loss = loss + edge_weight / 3 * (weight.expand_as(error).narrow(dim, 1, step.shape[dim]) * step).mean()
    return loss


@torch.no_grad()
def fresh_vae_state(config: VAEConfig, seed: int) -> dict[str, Tensor]:
    """First weights that treat each frame as a picture: convolutions look at their own frame, time passes as it is.

    From the usual random ones, pictures learned first are lost when frames begin to mix.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = CausalVAE(config)
    for module in vae.modules():
        if isinstance(module, CausalConv3d):
            module.weight[:, :, :-1] = 0
        if isinstance(module, TimeConv):
            one = torch.eye(module.in_channels).repeat(module.out_channels // module.in_channels, 1)
            module.weight.zero_()
            module.weight[:, :, -1, 0, 0] = one
            module.bias.zero_()
    vae.conv1.bias[config.z_dim :] = FIRST_LOG_VARIANCE
    return vae.state_dict()


@torch.no_grad()
def measure_latents(net: nn.Module, clips: Sequence[PixelClip]) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] of the raw latents of some clips."""
    means = [net(clip.frames_CTHW[None].float() / 127.5 - 1, None)[1] for clip in clips]
    latents_CN = torch.cat(means).transpose(0, 1).flatten(1)
    return latents_CN.mean(1).cpu(), latents_CN.std(1).cpu()


def autoencoder_state(vae_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A VAE's tensors under Autoencoder's names."""
    return {f"vae.{name}": tensor for name, tensor in vae_state.items()}
