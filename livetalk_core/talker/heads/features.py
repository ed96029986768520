"""Which shapes of the face vary from person to person, and how far."""

from __future__ import annotations

import numpy as np

Spread = float

AXES: dict[str, tuple[str, str, Spread]] = {
    # name: (target at -1, target at 1, standard deviation); "?" stands for both sides
    "cheek bones": ("?-cheek-bones-decr", "?-cheek-bones-incr", 0.40),
    "cheek inner": ("?-cheek-inner-decr", "?-cheek-inner-incr", 0.30),
    "cheek height": ("?-cheek-trans-down", "?-cheek-trans-up", 0.30),
    "cheek volume": ("?-cheek-volume-decr", "?-cheek-volume-incr", 0.40),
    "chin bones": ("chin-bones-decr", "chin-bones-incr", 0.35),
    "chin height": ("chin-height-decr", "chin-height-incr", 0.28),
    "chin forward": ("chin-prominent-decr", "chin-prominent-incr", 0.30),
    "chin width": ("chin-width-decr", "chin-width-incr", 0.35),
    "jaw drop": ("chin-jaw-drop-decr", "chin-jaw-drop-incr", 0.25),
    "prognathism": ("chin-prognathism-decr", "chin-prognathism-incr", 0.15),
    "chin cleft": ("chin-cleft-decr", "chin-cleft-incr", 0.25),
    "ear scale": ("?-ear-scale-decr", "?-ear-scale-incr", 0.25),
    "ear wing": ("?-ear-wing-decr", "?-ear-wing-incr", 0.25),
    "ear lobe": ("?-ear-lobe-decr", "?-ear-lobe-incr", 0.35),
    "brow angle": ("eyebrows-angle-down", "eyebrows-angle-up", 0.35),
    "brow height": ("eyebrows-trans-down", "eyebrows-trans-up", 0.30),
    "brow depth": ("eyebrows-trans-backward", "eyebrows-trans-forward", 0.35),
    "eye bag": ("?-eye-bag-decr", "?-eye-bag-incr", 0.30),
    "inner corner": ("?-eye-corner1-down", "?-eye-corner1-up", 0.30),
    "outer corner": ("?-eye-corner2-down", "?-eye-corner2-up", 0.35),
    "epicanthus": ("?-eye-epicanthus-out", "?-eye-epicanthus-in", 0.25),
    "lid fold": ("?-eye-eyefold-down", "?-eye-eyefold-up", 0.30),
    "fold shape": ("?-eye-eyefold-concave", "?-eye-eyefold-convex", 0.30),
    "eye opening": ("?-eye-height2-decr", "?-eye-height2-incr", 0.22),
    "eye size": ("?-eye-scale-decr", "?-eye-scale-incr", 0.22),
    "eye distance": ("?-eye-trans-in", "?-eye-trans-out", 0.25),
    "eye height": ("?-eye-trans-down", "?-eye-trans-up", 0.20),
    "forehead slope": ("forehead-nubian-decr", "forehead-nubian-incr", 0.30),
    "forehead height": ("forehead-scale-vert-decr", "forehead-scale-vert-incr", 0.25),
    "temples": ("forehead-temple-decr", "forehead-temple-incr", 0.35),
    "fat": ("head-fat-decr", "head-fat-incr", 0.30),
    "head width": ("head-scale-horiz-decr", "head-scale-horiz-incr", 0.20),
    "head height": ("head-scale-vert-decr", "head-scale-vert-incr", 0.18),
    "head depth": ("head-scale-depth-decr", "head-scale-depth-incr", 0.18),
    "cupid's bow": ("mouth-cupidsbow-decr", "mouth-cupidsbow-incr", 0.40),
    "lower lip height": ("mouth-lowerlip-height-decr", "mouth-lowerlip-height-incr", 0.32),
    "lower lip volume": ("mouth-lowerlip-volume-decr", "mouth-lowerlip-volume-incr", 0.32),
    "upper lip height": ("mouth-upperlip-height-decr", "mouth-upperlip-height-incr", 0.32),
    "upper lip volume": ("mouth-upperlip-volume-decr", "mouth-upperlip-volume-incr", 0.32),
    "mouth width": ("mouth-scale-horiz-decr", "mouth-scale-horiz-incr", 0.32),
    "mouth height": ("mouth-trans-down", "mouth-trans-up", 0.20),
    "mouth depth": ("mouth-trans-backward", "mouth-trans-forward", 0.18),
    "mouth angles": ("mouth-angles-down", "mouth-angles-up", 0.25),
    "philtrum": ("mouth-philtrum-volume-decr", "mouth-philtrum-volume-incr", 0.30),
    "laugh lines": ("mouth-laugh-lines-out", "mouth-laugh-lines-in", 0.25),
    "nose base": ("nose-base-down", "nose-base-up", 0.30),
    "nose curve": ("nose-curve-concave", "nose-curve-convex", 0.35),
    "nose flare": ("nose-flaring-decr", "nose-flaring-incr", 0.35),
    "nose bridge": ("nose-greek-decr", "nose-greek-incr", 0.30),
    "nose hump": ("nose-hump-decr", "nose-hump-incr", 0.32),
    "nostrils": ("nose-nostrils-width-decr", "nose-nostrils-width-incr", 0.35),
    "nose tip height": ("nose-point-down", "nose-point-up", 0.35),
    "nose tip width": ("nose-point-width-decr", "nose-point-width-incr", 0.35),
    "nose depth": ("nose-scale-depth-decr", "nose-scale-depth-incr", 0.25),
    "nose width": ("nose-scale-horiz-decr", "nose-scale-horiz-incr", 0.28),
    "nose length": ("nose-scale-vert-decr", "nose-scale-vert-incr", 0.25),
    "nose volume": ("nose-volume-decr", "nose-volume-incr", 0.28),
    "nose root": ("nose-width1-decr", "nose-width1-incr", 0.35),
    "nose middle": ("nose-width2-decr", "nose-width2-incr", 0.35),
    "double chin": ("neck-double-decr", "neck-double-incr", 0.25),
}
MEANS = {"mouth angles": 0.22, "brow angle": 0.10}
"""Axes whose middle is not the shared mesh: it looks grim at rest."""
OUTLINES = ("head-diamond", "head-oval", "head-rectangular", "head-round", "head-square", "head-triangular", "head-invertedtriangular")
UNEVEN = {"brown": 2, "cheek": 2, "eye": 8, "jaw": 3, "mouth": 2, "nose": 4, "temple": 2}
"""How many targets of asymmetry each part has."""


def sample_features(rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """(target, amount), sampled: every axis, one outline of the head, and a little of what differs between the sides."""
    amounts: dict[str, float] = {}
    for name, (low, high, spread) in AXES.items():
        value = float(np.clip(rng.normal(MEANS.get(name, 0.0), 0.75 * spread), -0.7, 0.7))
        for side in ("l", "r") if "?" in low else ("",):
            amounts[f"local/{(high if value > 0 else low).replace('?', side)}"] = abs(value)
    amounts[f"local/{OUTLINES[int(rng.integers(len(OUTLINES)))]}"] = float(rng.beta(1.4, 2.2)) * 0.55
    for part, count in UNEVEN.items():
        amounts[f"local/asym-{part}-{int(rng.integers(1, count + 1))}-{'lr'[int(rng.integers(2))]}"] = float(rng.beta(1.2, 3.0)) * 0.5
    return tuple(sorted(amounts.items()))
