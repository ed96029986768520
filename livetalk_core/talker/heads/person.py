"""Who is photographed: everything that stays the same about one three-dimensional person, sampled from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.heads.features import sample_features

HAIR_CUTS = ("bald", "buzz", "crop", "side", "swept", "bob", "long", "wavy", "bun", "curls", "receding")
BEARDS = ("none", "stubble", "short", "full", "moustache", "goatee")
GLASSES = ("none", "round", "square", "thin")
CLOTHES = ("tee", "vneck", "shirt", "turtleneck", "jacket")

HAIRS = (
    (0.012, 0.010, 0.009), (0.030, 0.019, 0.013), (0.065, 0.036, 0.020), (0.125, 0.068, 0.036), (0.20, 0.115, 0.06),
    (0.33, 0.22, 0.12), (0.48, 0.36, 0.22), (0.19, 0.062, 0.026), (0.34, 0.34, 0.34), (0.66, 0.65, 0.63),
)  # fmt: skip
"""Linear RGB: black, dark brown, brown, light brown, dark blond, blond, light blond, red, gray, white."""
IRISES = ((0.055, 0.024, 0.010), (0.12, 0.055, 0.022), (0.17, 0.11, 0.045), (0.13, 0.15, 0.07), (0.13, 0.20, 0.26), (0.22, 0.27, 0.30))
"""Linear RGB: dark brown, brown, hazel, green, blue, gray."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """The constants of one person. Shares run from 0 to 1; colors are linear RGB."""

    seed: int
    age: float = 30.0
    """Years, 8 to 85."""
    masculine: float = 0.5
    african: float = 0.0
    asian: float = 0.0
    """Shares of ancestry; the rest is caucasian."""
    muscle: float = 0.5
    weight: float = 0.5
    features: tuple[tuple[str, float], ...] = ()
    """(target, how much of it): the shapes of nose, chin, eyes, ears, mouth, and what differs between the two sides."""
    melanin: float = 0.2
    """0 is the palest skin, 1 the darkest."""
    redness: float = 0.4
    freckles: float = 0.0
    roughness: float = 0.5
    """0 is oily skin, 1 dry."""
    makeup: float = 0.0
    """Lipstick, eyeliner."""
    lip_hue: float = 0.5
    hair: tuple[float, float, float] = HAIRS[2]
    hair_cut: str = "crop"
    fringe: float = 0.0
    """How far hair is cut to fall over the forehead, 0 to 1; only cuts that part have it."""
    hairline: float = 0.5
    """0 is low on the forehead, 1 high."""
    brow: float = 0.5
    """How strong the brows are."""
    beard: str = "none"
    glasses: str = "none"
    iris: tuple[float, float, float] = IRISES[1]
    clothes: str = "tee"
    cloth: tuple[float, float, float] = (0.1, 0.13, 0.2)
    accent: tuple[float, float, float] = (0.6, 0.6, 0.58)

    @classmethod
    def sample(cls, seed: int) -> Person:
        """The person of a seed."""
        rng = np.random.default_rng([seed, 303])
        origin = sample_origin(rng)
        body = sample_body(rng)
        look = sample_look(rng, origin, body)
        return cls(seed=seed, **origin, **body, **look, features=sample_features(rng))


def pick(rng: np.random.Generator, choices: tuple, weights: tuple[float, ...]):
    return choices[int(rng.choice(len(choices), p=np.asarray(weights) / sum(weights)))]


def sample_origin(rng: np.random.Generator) -> dict[str, float]:
    """Mostly one ancestry, sometimes a mixture; the skin's tone follows it loosely."""
    african, asian, caucasian = rng.dirichlet((0.35, 0.35, 0.45))
    melanin = float(np.clip(0.72 * african + 0.26 * asian + 0.15 * caucasian + rng.normal(0, 0.10), 0.02, 0.97))
    return {"african": float(african), "asian": float(asian), "melanin": melanin}


def sample_body(rng: np.random.Generator) -> dict[str, float]:
    man = rng.random() < 0.5
    return {
        "masculine": float(np.clip(rng.normal(0.9 if man else 0.1, 0.08), 0, 1)),
        "age": float(8 + 77 * rng.beta(1.35, 1.9)),
        "muscle": float(np.clip(rng.normal(0.52, 0.16), 0.1, 1)),
        "weight": float(np.clip(rng.normal(0.48, 0.13), 0.1, 0.9)),
    }


def sample_look(rng: np.random.Generator, origin: dict[str, float], body: dict[str, float]) -> dict[str, object]:
    man, age, dark = body["masculine"] > 0.5, body["age"], origin["melanin"] > 0.42 or origin["asian"] > 0.5
    return {
        "redness": float(rng.beta(2, 3)),
        "freckles": float(rng.beta(1, 2)) if not dark and rng.random() < 0.25 else 0.0,
        "roughness": float(rng.beta(2.5, 2.5)),
        "makeup": float(rng.uniform(0.2, 1)) if not man and age > 16 and rng.random() < 0.55 else 0.0,
        "lip_hue": float(rng.random()),
        "hair": sample_hair_color(rng, age, dark),
        "hair_cut": sample_cut(rng, man, age),
        "fringe": float(rng.uniform(0.5, 1)) if not man and rng.random() < 0.35 else 0.0,
        "hairline": float(np.clip(rng.normal(0.4 + (0.25 if man and age > 40 else 0), 0.18), 0, 1)),
        "brow": float(np.clip(rng.normal(0.65 if man else 0.42, 0.16), 0.1, 1)),
        "beard": pick(rng, BEARDS, (3, 2, 1.2, 1.0, 0.5, 0.6)) if man and age > 19 else "none",
        "glasses": pick(rng, GLASSES, (5, 0.7, 0.8, 0.8) if age < 50 else (3, 1, 1, 1)),
        "iris": pick(rng, IRISES, (6, 4, 0.6, 0.2, 0.1, 0.05) if dark else (2, 3, 2, 1.5, 3, 1.5)),
        "clothes": pick(rng, CLOTHES, (3, 2, 2, 1, 2)),
        "cloth": tuple(sample_cloth(rng).tolist()),
        "accent": tuple(sample_cloth(rng).tolist()),
    }


def sample_hair_color(rng: np.random.Generator, age: float, dark: bool) -> tuple[float, ...]:
    """Gray comes with the years."""
    gray = float(np.clip((age - 50) / 26 + rng.normal(0, 0.22), 0, 1)) if age > 38 else 0.0
    base = np.asarray(pick(rng, HAIRS, (6, 3, 0.6, 0.1, 0, 0, 0, 0, 0, 0) if dark else (1, 3, 4, 4, 3, 2, 1.5, 1.2, 0, 0)))
    base = base * rng.uniform(0.8, 1.25)
    return tuple((base + (np.asarray(HAIRS[-1 if rng.random() < 0.4 else -2]) - base) * gray).tolist())


def sample_cut(rng: np.random.Generator, man: bool, age: float) -> str:
    if man:
        bare = max(0.0, (age - 35) / 40)
        return pick(rng, HAIR_CUTS, (0.3 + 1.5 * bare, 1.2, 3, 2, 2, 0.05, 0.25, 0.2, 0.15, 1.2, 2.5 * bare))
    return pick(rng, HAIR_CUTS, (0.02, 0.1, 0.5, 0.5, 0.6, 2.2, 2.8, 2.8, 1.4, 1.4, 0))


def sample_cloth(rng: np.random.Generator) -> np.ndarray:
    """Mostly muted, sometimes bright."""
    value, tint = rng.beta(1.1, 2.2) * 0.75 + 0.015, rng.random(3)
    strength = rng.beta(1.2, 2.0)
    return np.clip(value * (1 + strength * 1.6 * (tint - tint.mean())), 0.008, 0.85).astype(float)
