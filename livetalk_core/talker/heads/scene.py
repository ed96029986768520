"""How the person is photographed: light, camera, background, film; sampled from a seed. Colors are linear RGB, lengths decimeters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RGB = tuple[float, float, float]
RIGS = ("studio", "window", "overcast", "sun", "evening", "office", "flash")
BACKDROPS = ("plain", "bokeh", "room", "window", "foliage", "street")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything about a picture that is not the person."""

    seed: int
    rig: str = "studio"
    key_from: RGB = (0.5, 0.5, 0.7)
    """Direction to the main light: right, up, toward the camera."""
    key: RGB = (2.2, 2.1, 2.0)
    softness: float = 0.5
    """0 is the sun, 1 a large softbox."""
    around: tuple[RGB, RGB, RGB, RGB, RGB, RGB] = ((0.3,) * 3,) * 6
    """Light from the right, left, above, below, the camera's side, behind."""
    rim_from: RGB = (-0.6, 0.4, -0.7)
    rim: RGB = (0.0, 0.0, 0.0)
    backdrop: str = "plain"
    backdrop_light: float = 0.5
    share: float = 0.5
    """The face's height (chin to hairline) in the picture."""
    aim: tuple[float, float] = (0.0, 0.0)
    """Where the middle of the face is, shares of the picture from its middle: right, up."""
    distance: float = 12.0
    exposure: float = 0.0
    """Stops away from a right one."""
    warmth: float = 0.0
    """-1 is blue, 1 orange."""
    contrast: float = 0.5
    saturation: float = 1.0
    grain: float = 0.3
    """0 to 1."""
    blur: float = 0.3
    """The lens: standard deviation in pixels of a picture 256 wide."""
    vignette: float = 0.2
    quality: int = 90
    """JPEG's; 100 leaves it out."""

    @classmethod
    def sample(cls, seed: int) -> Scene:
        """The scene of a seed."""
        rng = np.random.default_rng([seed, 505])
        rig = RIGS[int(rng.choice(len(RIGS), p=(0.22, 0.2, 0.16, 0.12, 0.1, 0.14, 0.06)))]
        return cls(seed=seed, rig=rig, **sample_light(rng, rig), **sample_backdrop(rng, rig), **sample_camera(rng))


def direction(turn_deg: float, up_deg: float) -> RGB:
    """From degrees to the right of the camera and above it."""
    turn, up = np.deg2rad(turn_deg), np.deg2rad(up_deg)
    return float(np.sin(turn) * np.cos(up)), float(np.sin(up)), float(np.cos(turn) * np.cos(up))


def warm(kelvin_shift: float, value: float = 1.0) -> RGB:
    """White, orange for positive shifts, blue for negative ones."""
    return value * float(np.exp(0.35 * kelvin_shift)), value, value * float(np.exp(-0.55 * kelvin_shift))


def sample_light(rng: np.random.Generator, rig: str) -> dict[str, object]:
    side = 1 if rng.random() < 0.5 else -1
    turn, up = {
        "studio": (rng.uniform(20, 55), rng.uniform(20, 45)), "window": (rng.uniform(50, 80), rng.uniform(5, 25)),
        "overcast": (rng.uniform(0, 40), rng.uniform(50, 75)), "sun": (rng.uniform(25, 75), rng.uniform(25, 55)),
        "evening": (rng.uniform(30, 75), rng.uniform(5, 25)), "office": (rng.uniform(0, 40), rng.uniform(45, 70)),
        "flash": (rng.uniform(0, 12), rng.uniform(5, 18)),
    }[rig]  # fmt: skip
    power, softness, tint, fill, sky_tint = {
        "studio": (2.2, 0.7, 0.0, 0.45, 0.0), "window": (2.2, 0.9, -0.15, 0.30, 0.2), "overcast": (0.9, 1.0, -0.15, 0.85, -0.25),
        "sun": (2.8, 0.12, 0.15, 0.42, -0.4), "evening": (2.2, 0.35, 0.75, 0.38, -0.35), "office": (1.2, 0.8, 0.05, 0.60, 0.1),
        "flash": (2.6, 0.25, -0.05, 0.22, 0.25),
    }[rig]  # fmt: skip
    fill *= rng.uniform(0.7, 1.5)
    sky = np.asarray(warm(sky_tint + rng.normal(0, 0.12), fill))
    floor = np.asarray(warm(rng.uniform(0.0, 0.5), fill * rng.uniform(0.3, 0.6)))
    lit = sky * 0.9 + np.asarray(warm(tint, 0.15))
    dim = sky * rng.uniform(0.35, 0.7)
    right, left = (lit, dim) if side > 0 else (dim, lit)
    back = rng.random() < {"studio": 0.6, "sun": 0.3, "evening": 0.5, "window": 0.25}.get(rig, 0.15)
    return {
        "key_from": direction(side * turn, up),
        "key": tuple(np.asarray(warm(tint + rng.normal(0, 0.1), power)).tolist()),
        "softness": float(np.clip(softness + rng.normal(0, 0.08), 0.03, 1)),
        "around": tuple(tuple(c.tolist()) for c in (right, left, sky * 1.2, floor, sky * 0.75, sky * 0.7)),
        "rim_from": direction(-side * rng.uniform(115, 155), rng.uniform(10, 45)),
        "rim": warm(rng.normal(0, 0.3), float(rng.uniform(0.8, 2.6))) if back else (0.0, 0.0, 0.0),
    }


def sample_backdrop(rng: np.random.Generator, rig: str) -> dict[str, object]:
    indoors = ("plain", "plain", "bokeh", "room", "room", "window")
    outdoors = ("foliage", "foliage", "street", "bokeh")
    choices = {"studio": ("plain", "plain", "plain", "bokeh"), "flash": indoors, "office": ("room", "room", "window", "plain")}
    kinds = choices.get(rig, outdoors if rig in ("overcast", "sun", "evening") else indoors)
    return {"backdrop": kinds[int(rng.integers(len(kinds)))], "backdrop_light": float(rng.beta(2, 2))}


def sample_camera(rng: np.random.Generator) -> dict[str, object]:
    return {
        "share": float(rng.uniform(0.44, 0.64)),
        "aim": (float(rng.normal(0, 0.025)), float(rng.uniform(0.0, 0.06))),
        "distance": float(rng.uniform(8.0, 17.0)),
        "exposure": float(rng.normal(0, 0.22)),
        "warmth": float(rng.normal(0, 0.18)),
        "contrast": float(np.clip(rng.normal(0.5, 0.2), 0, 1)),
        "saturation": float(rng.uniform(0.75, 1.05)),
        "grain": float(rng.beta(1.3, 2.5)),
        "blur": float(rng.uniform(0.0, 0.6)),
        "vignette": float(rng.beta(1.2, 2.5)) * 0.6,
        "quality": int(rng.integers(70, 99)),
    }
