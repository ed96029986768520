"""Triangles to pixels in plain torch, on a processor or a card: which triangle each pixel sees, and where on it.

Every triangle is cut into its rows, every row into its pixels, and the nearest wins by a scattered minimum.
Axes: N points, F triangles, R rows of triangles, P pixels that see something.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = (1 << 62) - 1
STEPS = 1 << 24
"""Depth is compared in this many steps between the nearest and the farthest point."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the pixels see; only those that see anything."""

    pixels_P: Tensor
    """int64: y * width + x, rising."""
    faces_P: Tensor
    """int64: number of the triangle."""
    weights_P3: Tensor
    """How much each corner counts, perspective taken into account."""
    depth_P: Tensor

    def mix(self, values_NC: Tensor, faces_F3: Tensor) -> Tensor:
        """Values of points, blended at the pixels: [P, C]."""
        corners_P3 = faces_F3[self.faces_P]
        weights_P3 = self.weights_P3
        return torch.addcmul(
            torch.addcmul(values_NC[corners_P3[:, 0]] * weights_P3[:, :1], values_NC[corners_P3[:, 1]], weights_P3[:, 1:2]),
            values_NC[corners_P3[:, 2]],
            weights_P3[:, 2:],
        )


def rasterize(screen_N3: Tensor, faces_F3: Tensor, height: int, width: int, two_sided_F: Tensor | None = None) -> Seen:
    """Points are (x, y, depth) in pixels, y down, depth > 0. Triangles that turn their back are left out unless `two_sided_F`."""
    corners_F33 = screen_N3[faces_F3]
    kept_F, first_row_F, rows_F = facing(corners_F33, height, width, two_sided_F)
    kept_F33 = corners_F33[kept_F]
    pixels, depth, face = cover(kept_F33, first_row_F, rows_F, width)
    near, far = kept_F33[:, :, 2].aminmax() if len(kept_F) else torch.tensor((0.0, 1.0)).unbind()
    scale = (STEPS - 1) / (far - near).clamp(min=1e-6)
    best_P = torch.full((height * width,), FAR, dtype=torch.int64, device=screen_N3.device)
    best_P.scatter_reduce_(0, pixels, ((depth - near) * scale).long() * (1 << 32) + kept_F[face], "amin")
    pixels_P = torch.nonzero(best_P != FAR)[:, 0]
    faces_P = best_P[pixels_P] & 0xFFFFFFFF
    return locate(corners_F33, pixels_P, faces_P, width)


def facing(corners_F33: Tensor, height: int, width: int, two_sided_F: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(numbers of the triangles to draw, the first row of pixels that each may cover, how many rows)."""
    low_F, high_F = (torch.ceil(corners_F33[:, :, 1].amin(1) - 0.5).clamp(min=0), torch.floor(corners_F33[:, :, 1].amax(1) - 0.5))
    high_F = high_F.clamp(max=height - 1)
    x_low_F, x_high_F = corners_F33[:, :, 0].aminmax(dim=1)
    drawn_F = (high_F >= low_F) & (x_high_F > 0) & (x_low_F < width) & (corners_F33[:, :, 2] > 1e-3).all(1)
    area_F = double_area(corners_F33)
    drawn_F &= (area_F < 0) if two_sided_F is None else (area_F < 0) | (two_sided_F & (area_F > 0))
    kept_F = torch.nonzero(drawn_F)[:, 0]
    return kept_F, low_F[kept_F].long(), (high_F - low_F + 1)[kept_F].long()


def double_area(corners_F33: Tensor) -> Tensor:
    """Signed; negative where the corners run counterclockwise to the viewer (y is down)."""
    a, b, c = corners_F33[:, :, :2].unbind(1)
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])


def cover(corners_F33: Tensor, first_row_F: Tensor, rows_F: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(pixel, depth there, which triangle) of every pixel whose middle lies in its triangle: row by row, from edge to edge."""
    face_R, row_R = unroll(rows_F)
    row_R = row_R + first_row_F[face_R]
    across_F3, down_F3, fixed_F3 = edges(corners_F33)
    start_F2 = corners_F33[:, 0, :2]
    y_R1 = (row_R + 0.5 - start_F2[face_R, 1])[:, None]
    across_R3, rest_R3 = across_F3[face_R], torch.addcmul(fixed_F3[face_R], down_F3[face_R], y_R1)
    cross_R3 = -rest_R3 / torch.where(across_R3 == 0, torch.ones_like(across_R3), across_R3)
    low_R = torch.where(across_R3 > 0, cross_R3, torch.full_like(cross_R3, -1e9)).amax(1)
    high_R = torch.where(across_R3 < 0, cross_R3, torch.full_like(cross_R3, 1e9)).amin(1)
    inside_R = ((across_R3 != 0) | (rest_R3 >= 0)).all(1)
    first_R = torch.ceil(low_R + start_F2[face_R, 0] - 0.5).clamp(0, width)
    last_R = torch.floor(high_R + start_F2[face_R, 0] - 0.5).clamp(-1, width - 1)
    of_row, column = unroll(((last_R - first_R + 1).clamp(min=0) * inside_R).long())
    column = column + first_R[of_row].long()
    x_P1 = (column + 0.5 - start_F2[face_R[of_row], 0])[:, None]
    weights_P3 = torch.addcmul(rest_R3[of_row], across_R3[of_row], x_P1)
    depth = 1 / (weights_P3 / corners_F33[:, :, 2][face_R[of_row]]).sum(1)
    return row_R[of_row] * width + column, depth, face_R[of_row]


def unroll(counts: Tensor) -> tuple[Tensor, Tensor]:
    """[2, 0, 3] -> ([0, 0, 2, 2, 2], [0, 1, 0, 1, 2])."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    start = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - start[owner]


def edges(corners_F33: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How much each corner counts is across * x + down * y + fixed, with x and y from the first corner; each [F, 3]."""
    b_F2, c_F2 = (corners_F33[:, k, :2] - corners_F33[:, 0, :2] for k in (1, 2))
    area_F1 = double_area(corners_F33)[:, None]
    across = torch.stack([b_F2[:, 1] - c_F2[:, 1], c_F2[:, 1], -b_F2[:, 1]], 1) / area_F1
    down = torch.stack([c_F2[:, 0] - b_F2[:, 0], -c_F2[:, 0], b_F2[:, 0]], 1) / area_F1
    fixed = torch.zeros_like(across)
    fixed[:, 0] = 1.0
    return across, down, fixed


def barycentric(corners_F33: Tensor, x_FS: Tensor, y_FS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How much each corner counts at a place on the screen, each [F, S]."""
    a, b, c = (corner[:, :2, None] for corner in corners_F33.unbind(1))
    area = double_area(corners_F33)[:, None]
    area = torch.where(area.abs() < 1e-9, torch.full_like(area, 1e-9), area)
    first = ((b[:, 0] - x_FS) * (c[:, 1] - y_FS) - (b[:, 1] - y_FS) * (c[:, 0] - x_FS)) / area
    second = ((c[:, 0] - x_FS) * (a[:, 1] - y_FS) - (c[:, 1] - y_FS) * (a[:, 0] - x_FS)) / area
    return first, second, 1 - first - second


def locate(corners_F33: Tensor, pixels_P: Tensor, faces_P: Tensor, width: int) -> Seen:
    """Where on its triangle each pixel looks."""
    corners_P33 = corners_F33[faces_P]
    x_P1, y_P1 = (pixels_P % width)[:, None] + 0.5, (pixels_P // width)[:, None] + 0.5
    flat_P3 = torch.cat(barycentric(corners_P33, x_P1, y_P1), 1)
    deep_P3 = flat_P3 / corners_P33[:, :, 2]
    total_P1 = deep_P3.sum(1, keepdim=True)
    return Seen(pixels_P=pixels_P, faces_P=faces_P, weights_P3=deep_P3 / total_P1, depth_P=1 / total_P1[:, 0])
