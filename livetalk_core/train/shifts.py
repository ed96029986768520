"""Shift kernels: 3 x 3 kernels that move a picture's latents by a few pixels, computed from a VAE.

Least squares between the latents of pictures and of the same pictures moved gives one kernel per small move, fractions of a pixel included.
The principal components of all these kernels are kept: any small move is close to a weighted sum of a few of them. The first describes lost
detail, then come the slopes right and down, then curvatures. The DiT predicts the weights for each place, so it can also rotate and scale.

Axes: J moves, X values of a neighborhood and a constant 1, C channels, P components.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.models.small_dit import surround
from livetalk_core.types import VideoVAE

REACH, STEP, SPREAD = 3.0, 0.5, 1.2
"""In pixels: the largest move in each direction, the step between moves, and the standard deviation of their Gaussian weight."""
RIDGE = 1e-4
"""Ridge regularization, relative to the mean power of the neighborhoods."""


@torch.no_grad()
def shift_kernels(vae: VideoVAE, pictures: Iterable[Tensor], parts: int) -> dict[str, Tensor]:
    """The weights of `SmallDiT.shifts`: `parts` components, the most important first. Pictures [3, H, W] in [-1, 1].

    A component is scaled so that its weight has variance 1 over the moves.
    """
    moves_J2, share_J = likely_moves()
    power_XX, product_XJC, places = 0.0, 0.0, 0
    for picture_CHW in pictures:
        latents_CHW = still_latents(vae, picture_CHW)
        near_NX = F.unfold(surround(latents_CHW[None]), 3)[0].T.double()
        near_NX = F.pad(near_NX, (0, 1), value=1.0)
        added_JCN = torch.stack([still_latents(vae, moved(picture_CHW, *move)) - latents_CHW for move in moves_J2.tolist()]).flatten(2)
        power_XX = power_XX + near_NX.T @ near_NX
        product_XJC = product_XJC + torch.einsum("nx,jcn->xjc", near_NX, added_JCN.double())
        places += len(near_NX)
    even_XX = torch.eye(len(power_XX), dtype=torch.float64)
    maps_XJC = torch.linalg.solve(power_XX + RIDGE * power_XX.diagonal().mean() * even_XX, product_XJC.flatten(1)).view_as(product_XJC)
    maps_XJC = maps_XJC * share_J.sqrt()[:, None]
    alike_JJ = torch.einsum("xjc,xy,ykc->jk", maps_XJC, power_XX / places, maps_XJC)
    axes_JP = torch.linalg.eigh(alike_JJ).eigenvectors.flip(1)[:, :parts]
    kernels_PCX = torch.einsum("xjc,jp->pcx", maps_XJC, axes_JP).float()
    weight, bias = kernels_PCX.flatten(0, 1).split((len(power_XX) - 1, 1), dim=1)
    return {"shifts.weight": weight.unflatten(1, (-1, 3, 3)).contiguous(), "shifts.bias": bias[:, 0].contiguous()}


def likely_moves() -> tuple[Tensor, Tensor]:
    """All moves (down, right) [J, 2] in pixels except (0, 0), and the weight of each, float64 [J] with sum 1."""
    steps = torch.arange(-REACH, REACH + STEP / 2, STEP, dtype=torch.float64)
    moves_J2 = torch.cartesian_prod(steps, steps)
    moves_J2 = moves_J2[moves_J2.any(1)]
    chance_J = (-moves_J2.square().sum(1) / (2 * SPREAD**2)).exp()
    return moves_J2, chance_J / chance_J.sum()


def still_latents(vae: VideoVAE, picture_CHW: Tensor) -> Tensor:
    """Latents [C, h, w] of the picture shown as a still video."""
    return vae.encode(picture_CHW[:, None].expand(-1, 1 + vae.temporal_stride, -1, -1))[:, 1].float()


def moved(picture_CHW: Tensor, down: float, right: float) -> Tensor:
    """The picture moved by some pixels with bicubic interpolation; edge pixels are repeated."""
    height, width = picture_CHW.shape[1:]
    to_left = torch.tensor([[[1.0, 0.0, -2 * right / width], [0.0, 1.0, -2 * down / height]]], device=picture_CHW.device)
    places = F.affine_grid(to_left, [1, 3, height, width], align_corners=False).to(picture_CHW.dtype)
    return F.grid_sample(picture_CHW[None], places, mode="bicubic", padding_mode="border", align_corners=False)[0]
