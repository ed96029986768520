"""The VAE of a small model: its encoder is the principal components of blocks of pixels, the mouth's above all; its decoder learns.

The latents are final before any training, so the DiT need not wait for the decoder.
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
from livetalk_core.train.learner import Learner

EMPHASIS = 0.75
"""Latent channels keep their pictures' deviation to this power: between equal (0) and as in the pictures (1)."""
MOUTH = 4.0
"""Added to the weight 1 of a block where the mouth is."""
LEAST = 1e-3
"""Deviation that a component has at least: half of what the rounding to bytes makes."""


LAPLACIAN = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
SMOOTHED = torch.tensor([[0, -1, -2, -1, 0], [-1, 0, 2, 0, -1], [-2, 2, 8, 2, -2], [-1, 0, 2, 0, -1], [0, -1, -2, -1, 0]]) / 6
"""The same after smoothing by (1 2 1) both ways, as strong on edges: it does not see a checkerboard, the cheapest detail to make."""


class Autoencoder(nn.Module):
    """A PatchVAE there and back in one forward; only the decoder's network learns."""

    def __init__(self, config: PatchVAEConfig):
        super().__init__()
        self.vae = PatchVAE(config)
        for fixed in (self.vae.encoder, self.vae.decoder.picture):
            fixed.requires_grad_(False)

    def forward(self, video_BCTHW: Tensor, noise: Tensor | float) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] -> the same again, float32, through latents with `noise`, or a DiT's errors, on them."""
        vae = self.vae
        dtype = vae.decoder.embed.weight.dtype
        z_BCTHW = vae.encoder(video_BCTHW.to(dtype), None) + noise
        return vae.decoder(z_BCTHW.to(dtype), None).float()


class TokenizerStage:
    """Updates a VAE on squares cut from films."""

    def __init__(self, config: Tokenizer, learner: Learner):
        self.config, self.learner = config, learner
        self.learners = {"net": learner}
        self.chief = learner

    def step(self, passes: Sequence[Sequence[tuple[Film, Draws]]], everyone: Draws, number: int) -> dict[str, Tensor]:
        losses = [lambda batch=batch: self.loss(batch) for batch in passes]
        loss, norm = self.learner.update(losses)
        return {"loss": loss, "grad_norm": norm}

    def loss(self, batch: Sequence[tuple[Film, Draws]]) -> Tensor:
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
        return rebuild_loss(again_BCTHW, video_BCTHW, weight_BHW[:, None, None], config.edge_weight)

    def cut(self, film: Film, draws: Draws) -> PixelClip:
        """A square of the film, or of what a DiT made of it. ValueError if the one has more frames than the other."""
        config = self.config
        if draws.number("error") >= config.errors:
            return film.cut(draws, config.frames, config.size)
        clip = film.cut_error(draws, config.size)
        if (made := clip.frames_CTHW.shape[1]) != config.frames:
            raise ValueError(f"frames={config.frames} must be {made}, since the DiT's errors are of chunks of {made} frames")
        return clip


def signed(clips: Iterable[PixelClip]) -> Tensor:
    """Clips as a batch [B, 3, T, H, W] in [-1, 1]."""
    return torch.stack([clip.frames_CTHW for clip in clips]).float() / 127.5 - 1


def rebuild_loss(again_BCTHW: Tensor, video_BCTHW: Tensor, weight: Tensor, edge_weight: float) -> Tensor:
    """Weighted mean |difference| of the pictures, and `edge_weight` times that of how sharp they are around each pixel, at two scales."""
    loss = (weight * (again_BCTHW - video_BCTHW).abs()).mean()
    for kernel in (LAPLACIAN, SMOOTHED):
        loss = loss + edge_weight * (weight * (sharpness_of(again_BCTHW, kernel) - sharpness_of(video_BCTHW, kernel)).abs()).mean()
    return loss


def sharpness_of(video_BCTHW: Tensor, kernel_HW: Tensor) -> Tensor:
    """Root mean square of a kernel's answer in each 5 x 5 pixels [B, 3, T, H, W]: how much detail there is, not where."""
    frames = video_BCTHW.transpose(1, 2).flatten(0, 2)[:, None]
    reach = len(kernel_HW) // 2
    power = F.conv2d(F.pad(frames, (reach, reach, reach, reach), mode="replicate"), kernel_HW.to(frames)[None, None]).square()
    local = (F.avg_pool2d(power, 5, stride=1, padding=2, count_include_pad=False) + 1e-4).sqrt()
    return local.unflatten(0, (video_BCTHW.shape[0], -1, video_BCTHW.shape[1]))[:, :, :, 0].transpose(1, 2)


@torch.no_grad()
def first_vae_state(config: PatchVAEConfig, clips: Sequence[PixelClip], seed: int) -> dict[str, Tensor]:
    """A VAE that codes blocks of four frames by their principal components; its network adds nothing yet.

    A first frame is coded as four equal ones, and comes back as the mean of four.
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
    """All blocks of four frames, [N, D] float64, and how much each counts, [N, 1]."""
    blocks_BTHWD = fold(signed(clips)[:, :, 1:], FRAMES, PATCH).movedim(1, -1)
    mouth_BHW = torch.stack([clip.mouth_HW for clip in clips]).double()
    share_BTHW = F.avg_pool2d(mouth_BHW, PATCH)[:, None].expand(blocks_BTHWD.shape[:-1])
    return blocks_BTHWD.flatten(0, -2).double(), 1 + MOUTH * share_BTHW.reshape(-1, 1)


def principal_maps(blocks_ND: Tensor, weight_N1: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Their mean [D], and the maps to `count` latent channels [Z, D] and back [D, Z], about that mean."""
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
    """Over the frames in blocks of [3, 4, 8, 8] values."""
    return rows_ND.unflatten(1, (3, FRAMES, PATCH**2)).sum(2).flatten(1)


def autoencoder_state(vae_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A VAE's tensors under Autoencoder's names."""
    return {f"vae.{name}": tensor for name, tensor in vae_state.items()}
