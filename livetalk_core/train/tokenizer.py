"""A small model's VAE: the encoder projects pixel blocks to principal components, weighted to the mouth; the decoder is trained.

The encoder needs no training, so the DiT can be trained before the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.patch_vae import FRAMES, PATCH, PatchVAE, PatchVAEConfig, fold
from livetalk_core.train.config import Tokenizer
from livetalk_core.train.draws import Draws
from livetalk_core.train.films import Film, PixelClip
from livetalk_core.train.learner import LearnerStage

EMPHASIS = 0.75
"""Deviation of a latent channel = its deviation in pixels to this power: 0 makes channels equal, 1 keeps pixel scale."""
MOUTH = 4.0
"""Extra weight of a block where the mouth is; other blocks have weight 1."""
LEAST = 1e-3
"""Least deviation of a component: half of that which rounding to bytes causes."""


LAPLACIAN = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
SMOOTHED = torch.tensor([[0, -1, -2, -1, 0], [-1, 0, 2, 0, -1], [-2, 2, 8, 2, -2], [-1, 0, 2, 0, -1], [0, -1, -2, -1, 0]]) / 6
"""LAPLACIAN after (1 2 1) smoothing in both directions, scaled to equal strength on edges. It ignores checkerboard patterns, which a
decoder would otherwise add as cheap detail."""


class Autoencoder(nn.Module):
    """A PatchVAE that encodes and decodes in one forward pass; only the decoder's network is trained."""

    def __init__(self, config: PatchVAEConfig):
        super().__init__()
        self.vae = PatchVAE(config)
        for fixed in (self.vae.encoder, self.vae.decoder.picture):
            fixed.requires_grad_(False)

    def forward(self, video_BCTHW: Tensor, noise: Tensor | float) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] -> reconstruction, float32; `noise`, or a DiT's errors, is added to the latents."""
        vae = self.vae
        dtype = vae.decoder.embed.weight.dtype
        z_BCTHW = vae.encoder(video_BCTHW.to(dtype), None) + noise
        return vae.decoder(z_BCTHW.to(dtype), None).float()


class TokenizerStage(LearnerStage):
    """Updates a VAE on square crops of films."""

    config: Tokenizer

    def loss(self, batch: Sequence[tuple[Film, Draws]], number: int = 0) -> Tensor:
        config = self.config
        clips = [self.cut(film, draws) for film, draws in batch]
        video_BCTHW = signed(clips).to(next(self.learner.net.parameters()).device)
        steps = (config.frames - 1) // FRAMES + 1
        like = video_BCTHW.new_empty(self.learner.net.vae.config.z_dim, steps, config.size // PATCH, config.size // PATCH)
        noises = [
            config.noise * draws.noise("latents", like) if clip.error_CTHW is None else clip.error_CTHW.to(like)
            for clip, (_, draws) in zip(clips, batch, strict=True)
        ]
        noise_BCTHW = torch.stack(noises)
        again_BCTHW = self.learner.net(video_BCTHW, noise_BCTHW)
        weight_BHW = 1 + config.mouth_weight * torch.stack([clip.mouth_HW for clip in clips]).float().to(video_BCTHW.device)
        return reconstruction_loss(again_BCTHW, video_BCTHW, weight_BHW[:, None, None], config.edge_weight)

    def cut(self, film: Film, draws: Draws) -> PixelClip:
        """A random crop of the film, with a recorded DiT error in a share of cases. ValueError if its frames do not match the config."""
        config = self.config
        if draws.number("error") >= config.errors:
            return film.cut(draws, config.frames, config.size)
        clip = film.cut_error(draws, config.size)
        if (made := clip.frames_CTHW.shape[1]) != config.frames:
            raise ValueError(f"frames={config.frames} must be {made}, because the DiT's errors are of chunks of {made} frames")
        return clip


def signed(clips: Iterable[PixelClip]) -> Tensor:
    """Clips as a batch [B, 3, T, H, W] in [-1, 1]."""
    return torch.stack([clip.frames_CTHW for clip in clips]).float() / 127.5 - 1


def reconstruction_loss(again_BCTHW: Tensor, video_BCTHW: Tensor, weight: Tensor, edge_weight: float) -> Tensor:
    """Weighted mean absolute difference of pixels, plus `edge_weight` times that of local sharpness at two scales."""
    loss = (weight * (again_BCTHW - video_BCTHW).abs()).mean()
    for kernel in (LAPLACIAN, SMOOTHED):
        loss = loss + edge_weight * (weight * (sharpness_of(again_BCTHW, kernel) - sharpness_of(video_BCTHW, kernel)).abs()).mean()
    return loss


def sharpness_of(video_BCTHW: Tensor, kernel_HW: Tensor) -> Tensor:
    """RMS of a kernel's response in 5 x 5 pixels around each pixel, [B, 3, T, H, W]: the amount of detail, not its place."""
    frames = video_BCTHW.transpose(1, 2).flatten(0, 2)[:, None]
    reach = len(kernel_HW) // 2
    power = F.conv2d(F.pad(frames, (reach, reach, reach, reach), mode="replicate"), kernel_HW.to(frames)[None, None]).square()
    local = (F.avg_pool2d(power, 5, stride=1, padding=2, count_include_pad=False) + 1e-4).sqrt()
    return local.unflatten(0, (video_BCTHW.shape[0], -1, video_BCTHW.shape[1]))[:, :, :, 0].transpose(1, 2)


@torch.no_grad()
def first_vae_state(config: PatchVAEConfig, clips: Sequence[PixelClip], seed: int) -> dict[str, Tensor]:
    """A VAE that encodes blocks of four frames by their principal components; the decoder's network adds nothing yet.

    The first frame is encoded as four equal frames and decoded as the mean of four.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = PatchVAE(config)
    mean_D, into_ZD, out_of_DZ = principal_maps(*weighted_blocks(clips), config.z_dim)
    code, picture = vae.encoder.code, vae.decoder.picture
    set_linear(code.rest, into_ZD, -(into_ZD @ mean_D))
    set_linear(code.first, sum_frames(into_ZD), -(into_ZD @ mean_D))
    set_linear(picture.rest, out_of_DZ, mean_D)
    set_linear(picture.first, sum_frames(out_of_DZ.T).T / FRAMES, sum_frames(mean_D[None])[0] / FRAMES)
    silent = [block.convs[1] for block in (*vae.decoder.blocks, *vae.decoder.fine)]
    for layer in (*silent, vae.decoder.head):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return vae.state_dict()


def weighted_blocks(clips: Sequence[PixelClip]) -> tuple[Tensor, Tensor]:
    """All blocks of four frames, float64 [N, D], and their weights [N, 1]."""
    blocks_BTHWD = fold(signed(clips)[:, :, 1:], FRAMES, PATCH).movedim(1, -1)
    mouth_BHW = torch.stack([clip.mouth_HW for clip in clips]).double()
    share_BTHW = F.avg_pool2d(mouth_BHW, PATCH)[:, None].expand(blocks_BTHWD.shape[:-1])
    return blocks_BTHWD.flatten(0, -2).double(), 1 + MOUTH * share_BTHW.reshape(-1, 1)


def principal_maps(blocks_ND: Tensor, weight_N1: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks' mean [D], and linear maps around it to `count` latent channels [Z, D] and back [D, Z]."""
    mean_D = blocks_ND.mean(0)
    around_ND = blocks_ND - mean_D
    axes_DZ = torch.linalg.eigh((weight_N1 * around_ND).T @ around_ND).eigenvectors.flip(1)[:, :count]
    deviation_Z = (around_ND @ axes_DZ).std(0).clamp_min(LEAST)
    emphasis_Z = deviation_Z**EMPHASIS
    scale_Z = emphasis_Z / emphasis_Z.square().mean().sqrt() / deviation_Z
    return mean_D, (axes_DZ * scale_Z).T, axes_DZ / scale_Z


def set_linear(layer: nn.Conv3d, weight_OI: Tensor, bias_O: Tensor) -> None:
    layer.weight.copy_(weight_OI[:, :, None, None, None])
    layer.bias.copy_(bias_O)


def sum_frames(rows_ND: Tensor) -> Tensor:
    """Sum blocks of [3, 4, 8, 8] values over their four frames."""
    return rows_ND.unflatten(1, (3, FRAMES, PATCH**2)).sum(2).flatten(1)


def autoencoder_state(vae_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a VAE's tensors to Autoencoder's names."""
    return {f"vae.{name}": tensor for name, tensor in vae_state.items()}
