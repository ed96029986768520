"""AMT-S: the frame between two frames, by all-pairs correlation and several flows (Li et al. 2023), in its published layout.

Axes: B pictures, C channels, H W size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.evaluate.talkbench.amt_blocks import FirstDecoder, LastDecoder, MatchEncoder, NextDecoder, Pyramid, Update, resize, warp

RADIUS, LEVELS, FLOWS = 3, 4, 3
CHANNELS = (20, 32, 44, 56)
PLANES = LEVELS * (2 * RADIUS + 1) ** 2


class AMT(nn.Module):
    """Two pictures [B, 3, H, W] in [0, 1], sides multiples of 16 and 128 or more -> the one in the middle, in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4 = CHANNELS
        side = c1
        self.feat_encoder, self.encoder = MatchEncoder(84), Pyramid(CHANNELS)
        self.decoder4 = FirstDecoder(c4, c3, side)
        self.decoder3, self.decoder2 = NextDecoder(c3, c2, side), NextDecoder(c2, c1, side)
        self.decoder1 = LastDecoder(c1, side, FLOWS)
        self.update4, self.update3, self.update2 = Update(c3, PLANES), Update(c2, PLANES, 2), Update(c1, PLANES, 4)
        self.comb_block = nn.Sequential(nn.Conv2d(9, 18, 3, padding=1), nn.PReLU(18), nn.Conv2d(18, 3, 3, padding=1))

    def forward(self, a_B3HW: Tensor, b_B3HW: Tensor) -> Tensor:
        mean_B111 = torch.cat([a_B3HW, b_B3HW], dim=2).mean((1, 2, 3), keepdim=True)
        a, b = a_B3HW - mean_B111, b_B3HW - mean_B111
        matches = Matches(*self.feat_encoder(torch.cat([a, b])).chunk(2))
        a1, a2, a3, a4 = self.encoder(a)
        b1, b2, b3, b4 = self.encoder(b)
        time_B111 = torch.full_like(mean_B111, 0.5)
        flow_a, flow_b, x = self.decoder4(a4, b4, time_B111)
        flow_a, flow_b, x = refine(self.update4, matches, flow_a, flow_b, x, 1)
        flow_a, flow_b, x = self.decoder3(x, a3, b3, flow_a, flow_b)
        flow_a, flow_b, x = refine(self.update3, matches, flow_a, flow_b, x, 2)
        flow_a, flow_b, x = self.decoder2(x, a2, b2, flow_a, flow_b)
        flow_a, flow_b, x = refine(self.update2, matches, flow_a, flow_b, x, 4)
        candidates = self.candidates(a, b, mean_B111, *self.decoder1(x, a1, b1, flow_a, flow_b))
        return (candidates.mean(1) + self.comb_block(candidates.flatten(1, 2))).clamp(0, 1)

    def candidates(self, a: Tensor, b: Tensor, mean: Tensor, flow_a: Tensor, flow_b: Tensor, mask: Tensor, added: Tensor) -> Tensor:
        """The pictures [B, flows, 3, H, W] that each pair of flows gives."""
        flow_a, flow_b = (flow.unflatten(1, (FLOWS, 2)).flatten(0, 1) for flow in (flow_a, flow_b))
        mask, added = mask.unflatten(1, (FLOWS, 1)).flatten(0, 1), added.unflatten(1, (FLOWS, 3)).flatten(0, 1)
        a, b, mean = (each.repeat_interleave(FLOWS, dim=0) for each in (a, b, mean))
        return (mask * warp(a, flow_a) + (1 - mask) * warp(b, flow_b) + mean + added).unflatten(0, (-1, FLOWS))


def refine(update: Update, matches: Matches, flow_a: Tensor, flow_b: Tensor, x: Tensor, shrink: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flows and features after one look at the correlation, at 1/8 of the size."""
    small_a, small_b = ((resize(flow, 1 / shrink) / shrink if shrink > 1 else flow) for flow in (flow_a, flow_b))
    change, flow_change = update(x, torch.cat([small_a, small_b], dim=1), matches.around(small_a, small_b))
    return flow_a + flow_change[:, :2], flow_b + flow_change[:, 2:], x + change


class Matches:
    """How well each place of one picture matches each of the other, at four scales, in both directions."""

    def __init__(self, a_BCHW: Tensor, b_BCHW: Tensor) -> None:
        self.batch, channels, self.height, self.width = a_BCHW.shape
        scores = a_BCHW.flatten(2).transpose(1, 2) @ b_BCHW.flatten(2) / channels**0.5
        size = (1, self.height, self.width)
        self.to_b = pyramid(scores.flatten(0, 1).unflatten(1, size))
        self.to_a = pyramid(scores.transpose(1, 2).flatten(0, 1).unflatten(1, size))

    def around(self, flow_a: Tensor, flow_b: Tensor) -> Tensor:
        """[B, 2 planes, H, W]: scores around where the flow from a to b points in b, and from b to a in a.

        The flows lead from the middle to a and to b; the middle is half way, so they are doubled.
        """
        return torch.cat([self.look_up(self.to_b, 2 * flow_b), self.look_up(self.to_a, 2 * flow_a)], dim=1)

    def look_up(self, scores: list[Tensor], flow_B2HW: Tensor) -> Tensor:
        places = [torch.arange(length, device=flow_B2HW.device, dtype=torch.float32) for length in (self.height, self.width)]
        grid_2HW = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1])
        centers = (grid_2HW + flow_B2HW).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        steps = torch.arange(-RADIUS, RADIUS + 1, device=flow_B2HW.device, dtype=torch.float32)
        around = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)[None]
        found = [sample(level, centers / 2**power + around) for power, level in enumerate(scores)]
        joined = torch.cat([each.reshape(self.batch, self.height, self.width, -1) for each in found], dim=-1)
        return joined.permute(0, 3, 1, 2).contiguous()


def pyramid(scores: Tensor) -> list[Tensor]:
    levels = [scores]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2, stride=2))
    return levels


def sample(scores: Tensor, at: Tensor) -> Tensor:
    """Values at pixel coordinates (x, y), linear between pixels and 0 outside."""
    height, width = scores.shape[-2:]
    last = torch.tensor([width - 1, height - 1], device=scores.device, dtype=torch.float32)
    return F.grid_sample(scores, 2 * at / last - 1, align_corners=True)


def load_amt(state: Mapping[str, Tensor]) -> AMT:
    """AMT-S with published weights. ValueError for others."""
    model = AMT()
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"these are no weights of AMT-S ({reason}); take amt-s.pth") from None
    return model.eval()
