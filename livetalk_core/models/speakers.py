"""Two speakers: which voice each token attends to (MultiTalk's label rotary embedding, L-RoPE).

Self-attention to the two people in the first latent frame gives every token a position: 0..4 for person 1, 20..24 for person 2,
12 for the background. The voices' keys have positions 2 and 22, so a 1-D rotary embedding makes each person attend to their own voice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CLASS_RANGE, CLASS_INTERVAL = 24, 4
BACKGROUND = CLASS_RANGE // 2
PEOPLE = 2


def speaker_positions(q_BLNK: Tensor, k_BLNK: Tensor, masks_KL: Tensor, tokens_per_frame: int) -> Tensor:
    """Each token's position on the speakers' line, [B, L] float32. `masks_KL`: person 1, person 2, background in the first frame."""
    likeness_BKL = reference_likeness(q_BLNK, k_BLNK[:, :tokens_per_frame], masks_KL)
    low, high = likeness_BKL.amin(-1, keepdim=True), likeness_BKL.amax(-1, keepdim=True)
    return line_positions(likeness_BKL, low, high)


def reference_likeness(q_BLNK: Tensor, k_BSNK: Tensor, masks_KS: Tensor) -> Tensor:
    """Mean attention of each token to each masked region of the first frame, averaged over heads: [B, K, L].

    The masks, divided by their areas, serve as values, so the L x S attention map is never stored. An odd last head is left out, because
    the published code averages two halves of the heads.
    """
    even = max(1, q_BLNK.shape[2] // 2 * 2)
    q_BLNK, k_BSNK = q_BLNK[:, :, :even], k_BSNK[:, :, :even]
    area = masks_KS.sum(-1, keepdim=True).clamp(min=1)
    values_SK = (masks_KS / area).T.to(q_BLNK.dtype)
    values = values_SK[None, None].expand(q_BLNK.shape[0], q_BLNK.shape[2], -1, -1)
    out_BNLK = F.scaled_dot_product_attention(q_BLNK.transpose(1, 2), k_BSNK.transpose(1, 2), values)
    return out_BNLK.float().mean(1).transpose(1, 2)


def line_positions(likeness_BKL: Tensor, low_BK1: Tensor, high_BK1: Tensor) -> Tensor:
    """Likeness, scaled by its extremes over the chunk, mapped to the range of the most similar person."""
    scaled = (likeness_BKL - low_BK1) / (high_BK1 - low_BK1 + 1e-8)
    person1, person2 = scaled[:, 0] * CLASS_INTERVAL, CLASS_RANGE - CLASS_INTERVAL + scaled[:, 1] * CLASS_INTERVAL
    places = torch.stack([person1, person2, torch.full_like(person1, BACKGROUND)], dim=1)
    return places.gather(1, likeness_BKL.argmax(1, keepdim=True)).squeeze(1)


def key_positions(num_keys: int, device: torch.device) -> Tensor:
    """Positions of one frame's audio keys, [1, keys]: person 1's half, then person 2's half."""
    middles = torch.tensor([CLASS_INTERVAL / 2, CLASS_RANGE - CLASS_INTERVAL / 2], device=device)
    return middles.repeat_interleave(num_keys // PEOPLE)[None]


def speaker_table(positions_BL: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """cos and sin [B, L, width / 2] of a 1-D rotary embedding over the full head width, at fractional positions."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32, device=positions_BL.device) / width)
    angles = positions_BL[..., None] * frequencies
    return angles.cos(), angles.sin()
