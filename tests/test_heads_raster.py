"""Triangles to pixels: the torch rasterizer against a slow plain one."""

import numpy as np
import pytest
import torch

from livetalk_core.talker.heads.raster import rasterize


def plain_rasterize(screen_N3, faces_F3, height, width):
    """Nearest triangle at each pixel's middle, pixel by pixel; -1 where there is none."""
    nearest = np.full((height, width), np.inf)
    owner = np.full((height, width), -1)
    for number, face in enumerate(faces_F3.tolist()):
        a, b, c = (screen_N3[k].double().numpy() for k in face)
        matrix = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
        if np.linalg.det(matrix) >= 0:
            continue
        inverse = np.linalg.inv(matrix)
        for y in range(height):
            for x in range(width):
                weights = inverse @ [x + 0.5, y + 0.5, 1]
                depth = 1 / (weights @ (1 / np.array([a[2], b[2], c[2]]))) if weights.min() >= 0 else np.inf
                if depth < nearest[y, x]:
                    nearest[y, x], owner[y, x] = depth, number
    return owner, nearest


@pytest.fixture
def soup():
    """Triangles of many sizes, some turned away, some off the picture."""
    rng = torch.Generator().manual_seed(3)
    middle = torch.rand(40, 1, 2, generator=rng) * 60 - 10
    corners = middle + torch.randn(40, 3, 2, generator=rng) * torch.rand(40, 1, 1, generator=rng) * 18
    depth = 5 + torch.rand(40, 3, 1, generator=rng) * 4
    return torch.cat([corners, depth], 2).reshape(-1, 3), torch.arange(120).view(-1, 3)


def test_each_pixel_sees_the_nearest_triangle_that_faces_it(soup):
    screen, faces = soup
    seen = rasterize(screen, faces, 32, 40)
    owner, nearest = plain_rasterize(screen, faces, 32, 40)
    ours = np.full(32 * 40, -1)
    ours[seen.pixels_P] = seen.faces_P
    assert (ours.reshape(32, 40) == owner).mean() > 0.998  # two triangles within a step of depth may swap
    assert np.allclose(seen.depth_P, nearest.reshape(-1)[seen.pixels_P], atol=1e-3)


def test_a_triangle_that_turns_its_back_is_seen_only_when_two_sided():
    screen = torch.tensor([[2.0, 2, 5], [20, 2, 5], [2, 20, 5]])
    faces = torch.tensor([[0, 1, 2]])
    assert len(rasterize(screen, faces, 24, 24).pixels_P) == 0
    assert len(rasterize(screen, faces, 24, 24, torch.tensor([True])).pixels_P) > 100


def test_values_are_blended_with_perspective():
    screen = torch.tensor([[0.0, 0, 1], [0, 32, 1], [32, 0, 4]])
    seen = rasterize(screen, torch.tensor([[0, 1, 2]]), 32, 32)
    halfway = torch.nonzero(seen.pixels_P == 16)[0, 0]
    value = float(seen.mix(torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0, 1, 2]]))[halfway, 0])
    flat = 16.5 / 32
    assert value == pytest.approx(flat / 4 / (flat / 4 + 1 - flat), abs=0.02)
    assert abs(value - flat) > 0.2
