"""A shirt's collar: a band about the neck, folded down, open in front."""

from __future__ import annotations

import numpy as np

AROUND = 48
OPEN_DEG = 16
"""Half of the gap in front."""
PROFILE = ((-0.02, 0.02), (0.14, 0.025), (0.17, 0.06), (0.12, 0.12), (-0.05, 0.22), (-0.12, 0.26))
"""Of the cloth from inside the neck over the fold to the outer edge: up, and away from the neck, decimeters."""


def build_collar(ring: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(points, normals, triangles) about a neck of (middle z, half width, half depth)."""
    middle, half_x, half_z = ring
    turn = np.deg2rad(np.linspace(OPEN_DEG, 360 - OPEN_DEG, AROUND))
    away = np.stack([np.sin(turn), np.zeros(AROUND), np.cos(turn)], 1)
    front = np.clip(np.cos(turn), 0, 1)
    rise = 5.98 - 0.30 * front**1.5 + 0.06 * np.clip(-np.cos(turn), 0, 1)
    points = np.stack([collar_row(up, out, away, rise, front, (middle, half_x, half_z)) for up, out in PROFILE], 1)
    along, across = np.gradient(points, axis=0), np.gradient(points, axis=1)
    normals = np.cross(along, across)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals *= np.where((normals * away[:, None]).sum(-1, keepdims=True) + 0.5 * normals[..., 1:2] < 0, -1, 1)
    rows = len(PROFILE)
    grid = np.arange(AROUND * rows).reshape(AROUND, rows)
    a, b, c, d = grid[:-1, :-1].ravel(), grid[:-1, 1:].ravel(), grid[1:, :-1].ravel(), grid[1:, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    return points.reshape(-1, 3), normals.reshape(-1, 3), faces


def collar_row(
    up: float, out: float, away: np.ndarray, rise: np.ndarray, front: np.ndarray, ring: tuple[float, float, float]
) -> np.ndarray:
    """[AROUND, 3]: one line of the profile; the points of the collar hang lower in front."""
    middle, half_x, half_z = ring
    low = -0.20 * front**6 if up < 0.1 and out > 0.1 else 0.0
    reach = out * (0.75 + 0.25 * front)
    x = away[:, 0] * (half_x + reach)
    z = middle + away[:, 2] * (half_z + reach)
    return np.stack([x, rise + up + low, z], 1)
