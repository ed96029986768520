"""Frames of glasses: tubes about the eyes, a bridge, and the arms back to the ears."""

from __future__ import annotations

import numpy as np

SHAPES = {"round": (0.225, 0.20, 2.0, 0.016), "square": (0.25, 0.17, 4.0, 0.022), "thin": (0.24, 0.155, 2.8, 0.009)}
"""Half width, half height, exponent of the superellipse, radius of the wire; decimeters."""
AROUND, RING = 40, 6


def build_glasses(kind: str, eyes_23: np.ndarray, bridge_3: np.ndarray, ear_x: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(points, normals, triangles) for the middles of the eyes, the bridge of the nose and the ears' distance from the middle."""
    half_x, half_y, power, wire = SHAPES[kind]
    front = float(bridge_3[2]) + 0.10
    pieces = []
    for eye in eyes_23:
        side = np.sign(eye[0])
        angle = np.linspace(0, 2 * np.pi, AROUND, endpoint=False)
        c, s = np.cos(angle), np.sin(angle)
        x = np.sign(c) * np.abs(c) ** (2 / power) * half_x
        y = np.sign(s) * np.abs(s) ** (2 / power) * half_y
        path = np.stack([eye[0] + 0.03 * side + x, eye[1] - 0.055 + y, front - 0.10 * (np.abs(eye[0] + x) / 0.6) ** 2], 1)
        pieces.append(tube(path, wire, closed=True))
        hinge = path[int(np.argmax(path[:, 0] * side))] + np.array([0, 0.06, 0])
        ear = np.array([side * ear_x, eyes_23[:, 1].mean() + 0.02, 0.42])
        arm = np.stack([hinge, hinge * [1, 1, 0] + [side * 0.03, 0, hinge[2] - 0.12], (hinge + ear) / 2 + [side * 0.04, 0, 0.0], ear])
        pieces.append(tube(arm, wire * 1.1, closed=False))
    inner = [eyes_23[k][0] - np.sign(eyes_23[k][0]) * (half_x - 0.03) for k in range(2)]
    x = np.linspace(min(inner), max(inner), 8)
    arch = 0.05 * (1 - ((x - x.mean()) / (np.ptp(x) / 2)) ** 2)
    pieces.append(tube(np.stack([x, eyes_23[:, 1].mean() + 0.01 + arch, np.full(8, front - 0.01) + arch * 0.5], 1), wire, closed=False))
    return joined(pieces)


def tube(path_S3: np.ndarray, radius: float, closed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A wire along a path."""
    ahead = np.roll(path_S3, -1, 0) - np.roll(path_S3, 1, 0) if closed else np.gradient(path_S3, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    helper = np.where(np.abs(ahead[:, 2:]) > 0.8, np.array([[0.0, 1, 0]]), np.array([[0.0, 0, 1]]))
    u = np.cross(ahead, helper)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(ahead, u)
    angle = np.linspace(0, 2 * np.pi, RING, endpoint=False)
    normal = u[:, None] * np.cos(angle)[None, :, None] + v[:, None] * np.sin(angle)[None, :, None]
    points = path_S3[:, None] + radius * normal
    count = len(path_S3)
    faces = []
    for s in range(count if closed else count - 1):
        for r in range(RING):
            a, b = s * RING + r, s * RING + (r + 1) % RING
            c, d = ((s + 1) % count) * RING + r, ((s + 1) % count) * RING + (r + 1) % RING
            faces += [(a, b, c), (b, d, c)]
    return points.reshape(-1, 3), normal.reshape(-1, 3), np.asarray(faces)


def joined(pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, normals, faces, count = [], [], [], 0
    for p, n, f in pieces:
        points.append(p)
        normals.append(n)
        faces.append(f + count)
        count += len(p)
    return np.concatenate(points), np.concatenate(normals), np.concatenate(faces)
