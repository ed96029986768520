"""The parameters of a drawing: Identity, the constants of a face, sampled from a seed; and what moves, Pose and Mouth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Color = tuple[float, float, float]

STYLES = ("human", "cat", "robot")
HAIR_STYLES = ("bald", "crop", "side", "quiff", "bob", "long", "wavy", "bun", "curls", "pixie", "beanie", "scarf")
BEARDS = ("none", "stubble", "short", "full", "moustache", "goatee")
GLASSES = ("none", "round", "square", "thin")
CLOTHES = ("tee", "vneck", "shirt", "blazer", "hoodie", "turtleneck")
BACKDROPS = ("studio", "bokeh", "window", "shelves", "garden", "sunset")


def rgb(code: str) -> Color:
    """'f6d3bd' -> (246, 211, 189)."""
    return tuple(float(int(code[i : i + 2], 16)) for i in (0, 2, 4))


SKINS = tuple(map(rgb, ("fadcca", "f6cfb4", "efbd9b", "e3a981", "cf9168", "b07450", "8c573a", "67402c")))
HAIRS = tuple(map(rgb, ("251e20", "35241b", "4f3222", "6f4229", "8e4420", "b9652f", "d3a45c", "e6cb97", "a7a4a6", "e3e0dd")))
DYED = tuple(map(rgb, ("c95f86", "4d78b8", "4c9c96", "7f5aa8")))
IRISES = tuple(map(rgb, ("4a2c18", "6a4022", "7b5a2e", "5f7a3e", "4c8a72", "4f86b4", "6f9cc0", "7d8790")))
CLOTHS = tuple(
    map(rgb, ("e9e4dc", "34506e", "7d2f3a", "2f5d50", "c98a3c", "3b3b46", "8a6fae", "d47f6d", "5b93b5", "a9b58a", "f0c9b8", "23303f"))
)
BACKS = tuple(map(rgb, ("c9d8df", "e8d9c6", "b9c7b4", "d9c3c9", "98a9bd", "6f8796", "e2b79a", "5a5f73", "cfd3e6", "8fb0a8")))
FURS = tuple(map(rgb, ("e7a25a", "8b8791", "f0e6d8", "3d3a40", "b78457", "c9c3bd")))
METALS = tuple(map(rgb, ("e8ecf0", "aebccb", "f2d9a0", "9fd0cb", "d3c2e8", "f0b6a8")))


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The constants of one face. Shape parameters are 0 to 1 with 0.5 in the middle; colors are RGB, 0 to 255."""

    seed: int
    style: str = "human"
    skin: Color = SKINS[1]
    hair: Color = HAIRS[3]
    iris: Color = IRISES[1]
    cloth: Color = CLOTHS[1]
    accent: Color = CLOTHS[0]
    back: Color = BACKS[0]
    hair_style: str = "long"
    beard: str = "none"
    glasses: str = "none"
    clothes: str = "tee"
    backdrop: str = "studio"
    age: float = 0.2
    """0 is twenty years old, 1 seventy."""
    feminine: float = 0.5
    """Affects lashes, lip color, brows and jaw."""
    face_width: float = 0.5
    jaw: float = 0.5
    chin: float = 0.5
    eye_size: float = 0.5
    eye_tilt: float = 0.5
    eye_gap: float = 0.5
    brow_weight: float = 0.5
    nose_width: float = 0.5
    nose_length: float = 0.5
    lip_fullness: float = 0.5
    lip_width: float = 0.5
    zoom: float = 1.0
    """Zoom of the camera: 1 shows the shoulders, 1.4 is a close-up."""
    freckles: bool = False
    earrings: bool = False

    @classmethod
    def sample(cls, seed: int, style: str | None = None) -> Identity:
        """The identity of a seed; about three in four are human. ValueError for an unknown style."""
        if style is not None and style not in STYLES:
            raise ValueError(f"style={style!r} must be one of {', '.join(STYLES)}, or left out to let the seed choose")
        rng = np.random.default_rng([seed, 71])
        chosen = str(rng.choice(STYLES, p=(0.76, 0.14, 0.10)))
        style = chosen if style is None else style
        return cls(seed=seed, style=style, **sample_colors(rng, style), **sample_shape(rng), **sample_look(rng)).with_gray_hair()

    def with_gray_hair(self) -> Identity:
        """The identity with gray or white hair, if older than sixty; the seed chooses which."""
        if self.style != "human" or self.age < 0.68:
            return self
        return replace(self, hair=HAIRS[-2 + self.seed % 2])


def pick(rng: np.random.Generator, choices: tuple, weights: tuple[float, ...] | None = None):
    share = None if weights is None else np.asarray(weights) / sum(weights)
    return choices[int(rng.choice(len(choices), p=share))]


def sample_colors(rng: np.random.Generator, style: str) -> dict[str, Color]:
    tone = int(rng.integers(len(SKINS)))
    dark = tone >= 4
    hair = pick(rng, HAIRS, (8, 6, 2, 1, 0.2, 0, 0, 0, 0.5, 0.3) if dark else (3, 4, 4, 4, 2, 2, 3, 2, 0.5, 0.3))
    if rng.random() < 0.06:
        hair = pick(rng, DYED)
    skin = {"human": SKINS[tone], "cat": pick(rng, FURS), "robot": pick(rng, METALS)}[style]
    cloth, accent = (CLOTHS[i] for i in rng.choice(len(CLOTHS), 2, replace=False))
    iris = pick(rng, IRISES, (6, 5, 2, 0.4, 0.2, 0.2, 0.1, 0.2) if dark and style == "human" else (3, 3, 2, 2, 2, 3, 2, 2))
    return {"skin": skin, "hair": hair, "iris": iris, "cloth": cloth, "accent": accent, "back": pick(rng, BACKS)}


def sample_shape(rng: np.random.Generator) -> dict[str, float]:
    names = (
        "face_width",
        "jaw",
        "chin",
        "eye_size",
        "eye_tilt",
        "eye_gap",
        "brow_weight",
        "nose_width",
        "nose_length",
        "lip_fullness",
        "lip_width",
    )
    return {name: float(np.clip(rng.normal(0.5, 0.22), 0, 1)) for name in names}


def sample_look(rng: np.random.Generator) -> dict[str, float | str | bool]:
    woman = bool(rng.random() < 0.5)
    feminine = float(np.clip(rng.normal(0.85 if woman else 0.12, 0.12), 0, 1))
    hair_weights = (
        (0.1, 0.3, 0.4, 0, 2, 2.4, 2.4, 1.6, 1.4, 1.4, 0.6, 1) if woman else (1, 2.4, 2.2, 2, 0.1, 0.5, 0.3, 0.2, 1.2, 0.3, 0.8, 0)
    )
    beard_weights = (1, 0, 0, 0, 0, 0) if woman else (3, 1.5, 1.2, 1.2, 0.5, 0.6)
    return {
        "feminine": feminine,
        "age": float(rng.beta(1.2, 2.0)),
        "hair_style": pick(rng, HAIR_STYLES, hair_weights),
        "beard": pick(rng, BEARDS, beard_weights),
        "glasses": pick(rng, GLASSES, (4, 1, 1, 0.8)),
        "clothes": pick(rng, CLOTHES),
        "backdrop": pick(rng, BACKDROPS),
        "zoom": float(rng.uniform(1.2, 1.45)),
        "freckles": bool(rng.random() < 0.15),
        "earrings": bool(woman and rng.random() < 0.5),
    }


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Position of the head and expression of the face, except for speech. All zero looks straight at the camera."""

    x: float = 0.0
    y: float = 0.0
    """Shift as a fraction of the picture's side, about -0.08 to 0.08."""
    roll: float = 0.0
    """Radians, clockwise."""
    scale: float = 1.0
    yaw: float = 0.0
    pitch: float = 0.0
    """Turn to the picture's right and down, -1 to 1; 1 is about 25 degrees."""
    blink: float = 0.0
    """0 open, 1 shut."""
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    """-1 to 1, right and down."""
    brow: float = 0.0
    """-1 lowered, 1 raised."""
    smile: float = 0.0
    """0 to 1: corners of the mouth, cheeks, lower lids."""


@dataclass(frozen=True, kw_only=True)
class Mouth:
    """The true mouth: the shape that a viewer sees."""

    opening: float = 0.0
    """0 to 1: the gap between the lips; the jaw drops with it."""
    width: float = 0.0
    """-1 narrow, 1 spread."""
    rounding: float = 0.0
    """0 to 1: lips pushed forward into a ring."""
    closure: float = 0.0
    """0 to 1: lips pressed together (m, b, p)."""
    teeth: float = 0.0
    """0 to 1: the lower lip tucked to the upper teeth (f, v), or teeth shown together (s, z)."""
    tongue: float = 0.0
    """0 to 1: the tongue's tip raised to the teeth (l, t, d, n, th)."""
