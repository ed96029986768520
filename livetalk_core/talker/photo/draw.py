"""Draws a moved portrait: the warped person over a background that stays, with teeth and tongue behind the lips,
and shut lids over the eyes.

Axes: H W pixels, C colors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from livetalk_core.talker.identity import Mouth
from livetalk_core.talker.photo.expression import FULL_GAP, Look
from livetalk_core.talker.photo.fitted import Portrait, background_of
from livetalk_core.talker.photo.lids import shut_eyes, without_eyes
from livetalk_core.talker.photo.mesh import LOWER_INNER, UPPER_INNER
from livetalk_core.talker.photo.warp import FRACTION_BITS, Puppet, Turn, fixed

UPPER_TEETH, LOWER_TEETH = 0.036, 0.022
"""How far the teeth reach below the upper lip at rest and above the lower lip, face heights."""
TEETH_GAPS = (0.14, 0.22, 0.31, 0.405, 0.5, 0.595, 0.69, 0.78, 0.86)
"""Where teeth meet, fractions of the mouth's width."""
GAP_SHADE = 0.72
BARED = 0.012
"""Lips parted by more than this in the picture, in face heights, show what is behind them, which the warped lips must not carry along."""
LIP_EDGE = 0.006
"""So far over the fitted lips teeth and dark corners of the mouth are seen, face heights."""
SEAM, SEAM_SHADE = 0.006, 0.35
"""Half the width of the line between closed lips, in face heights, and how much darker than they it is."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """Colors inside a mouth, RGB 0 to 255, and how far the teeth show."""

    teeth: tuple[float, float, float]
    gum: tuple[float, float, float]
    tongue: tuple[float, float, float]
    upper: float = UPPER_TEETH
    lower: float = LOWER_TEETH

    @classmethod
    def sample(cls, rng: np.random.Generator, skin_3: np.ndarray) -> Inside:
        """As bright as the face's light allows."""
        light = float(np.clip(skin_3.max() / 200, 0.45, 1.15))
        white = np.array([228, 220, 204]) * light * rng.uniform(0.85, 1.1)
        return cls(
            teeth=tuple(white * rng.uniform((0.97, 0.96, 0.9), (1.03, 1.0, 1.0))),
            gum=tuple(np.array([70, 26, 26]) * light * rng.uniform(0.4, 1.0)),
            tongue=tuple(np.array([172, 88, 84]) * light * rng.uniform(0.7, 1.0)),
            upper=UPPER_TEETH * rng.uniform(0.7, 1.25),
            lower=LOWER_TEETH * rng.uniform(0.4, 1.3),
        )


class Stage:
    """Draws one portrait in any pose."""

    def __init__(self, portrait: Portrait, inside: Inside, background_HWC: np.ndarray | None = None):
        """Another background than the picture's own may be given, of the same size."""
        self.puppet = Puppet.of(portrait.points_N3, portrait.pixels_HWC.shape[0])
        self.inside = inside
        self.background_HWC = background_of(portrait) if background_HWC is None else background_HWC
        self.picture_HWC = np.dstack([portrait.pixels_HWC, 255 * portrait.person_HW]).astype(np.float32)
        self.layer_HWC = self.without_teeth()

    @cached_property
    def lids_HWC(self) -> np.ndarray:
        """[H, W, 4]: the picture without its eyes, made for the first blink."""
        return without_eyes(self.layer_HWC, self.puppet.source_N2)

    def draw(self, mouth: Mouth, look: Look, turn: Turn, finer: int = 2) -> np.ndarray:
        """uint8 [H / finer, W / finer, 3]."""
        import cv2

        posed_N2 = self.puppet.posed(mouth, look, turn)
        there = self.puppet.source_map(posed_N2)

        def warped(layer_HWC: np.ndarray) -> np.ndarray:
            return cv2.remap(layer_HWC, there[..., 0], there[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

        moved = warped(self.layer_HWC)
        if look.blink > 0:
            shut_eyes(moved, warped(self.lids_HWC), posed_N2, look.blink)
        self.fill_mouth(moved, posed_N2, mouth)
        return self.composed(moved, finer)

    def untouched(self, finer: int = 2) -> np.ndarray:
        """uint8 [H / finer, W / finer, 3]: the picture itself, over the background of this stage."""
        return self.composed(self.picture_HWC, finer)

    def without_teeth(self) -> np.ndarray:
        """[H, W, 4]: the picture; where its lips are parted, they go on over what is between them."""
        import cv2

        there_N2 = self.puppet.source_N2
        height = self.puppet.frame.height
        gap = np.linalg.norm(there_N2[list(LOWER_INNER)] - there_N2[list(UPPER_INNER)], axis=1).max() / height
        if gap < BARED:
            return self.picture_HWC
        seen = np.zeros(self.picture_HWC.shape[:2], np.uint8)
        outline = fixed(self.puppet.lips(there_N2))
        cv2.fillPoly(seen, [outline], 255, cv2.LINE_8, FRACTION_BITS)
        cv2.polylines(seen, [outline], True, 255, max(1, round(2 * LIP_EDGE * height)), cv2.LINE_8, FRACTION_BITS)
        pixels = self.picture_HWC[..., :3].round().clip(0, 255).astype(np.uint8)
        lips_HWC = cv2.inpaint(pixels, seen, 3, cv2.INPAINT_TELEA).astype(np.float32)
        seam = np.zeros(seen.shape, np.float32)
        cv2.polylines(seam, [outline], True, 1.0, max(1, round(2 * SEAM * height)), cv2.LINE_8, FRACTION_BITS)
        lips_HWC *= 1 - SEAM_SHADE * cv2.GaussianBlur(seam, (0, 0), 0.8)[..., None]
        return np.dstack([lips_HWC, self.picture_HWC[..., 3:]])

    def composed(self, layer_HWC: np.ndarray, finer: int) -> np.ndarray:
        import cv2

        share = layer_HWC[..., 3:] / 255
        image = self.background_HWC + (layer_HWC[..., :3] - self.background_HWC) * share
        side = image.shape[0] // finer
        return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).round().clip(0, 255).astype(np.uint8)

    def fill_mouth(self, moved_HWC: np.ndarray, posed_N2: np.ndarray, mouth: Mouth) -> None:
        """Paints what is seen between the lips, in place."""
        import cv2

        opening = self.puppet.lips(posed_N2)
        low, high = opening.min(0).astype(int) - 3, opening.max(0).astype(int) + 4
        low, high = low.clip(0, None), high.clip(None, self.puppet.side)
        if (high - low).min() < 2 or mouth.opening * (1 - mouth.closure) < 0.02:
            return
        area = moved_HWC[low[1] : high[1], low[0] : high[0]]
        inside = self.paint_inside(area.shape[:2], posed_N2 - low, mouth)
        cover = np.zeros(area.shape[:2], np.uint8)
        cv2.fillPoly(cover, [fixed(opening - low)], 255, cv2.LINE_AA, FRACTION_BITS)
        share = cv2.GaussianBlur(cover, (0, 0), 0.6).astype(np.float32)[..., None] / 255
        area[..., :3] += (inside - area[..., :3]) * share
        area[..., 3:] = np.maximum(area[..., 3:], 255 * share)

    def paint_inside(self, size: tuple[int, int], posed_N2: np.ndarray, mouth: Mouth) -> np.ndarray:
        """[h, w, 3]: gums and throat, tongue, lower and upper teeth, darker toward the corners."""
        import cv2

        height, inside = self.puppet.frame.height, self.inside
        upper, lower = posed_N2[list(UPPER_INNER)], posed_N2[list(LOWER_INNER)]
        down = np.array(self.puppet.frame.axes_33[1, :2])
        canvas = np.full((*size, 3), inside.gum, np.float32)
        gap = FULL_GAP * mouth.opening * (1 - mouth.closure) * height
        wide = float(np.linalg.norm(upper[-1] - upper[0]))
        middle = lower[4] - down * ((0.25 + 0.55 * mouth.tongue) * gap * 0.6)
        axes = (0.34 * wide, max(0.12 * wide, 0.42 * gap))
        cv2.ellipse(
            canvas, (tuple(map(float, middle + down * axes[1] * 0.5)), (2 * axes[0], 2 * axes[1]), 0), inside.tongue, -1, cv2.LINE_AA
        )
        raised = 0.022 * height * mouth.opening
        rows = (
            (lower, lower - down * (inside.lower * height * (0.4 + 0.6 * mouth.teeth)), 0.82),
            (upper - down * height * 0.01, upper + down * (inside.upper * height - 0.6 * raised), 1.0),
        )
        for near, far, light in rows:
            row = np.concatenate([near[1:-1], far[1:-1][::-1]])
            cv2.fillPoly(canvas, [fixed(row)], tuple(light * part for part in inside.teeth), cv2.LINE_AA, FRACTION_BITS)
            gaps = np.stack([along(near, TEETH_GAPS), along(far, TEETH_GAPS)], axis=1)
            cv2.polylines(
                canvas, list(fixed(gaps)), False, tuple(GAP_SHADE * light * part for part in inside.teeth), 1, cv2.LINE_AA, FRACTION_BITS
            )
        aside = np.abs((np.arange(size[1]) - upper[4, 0]) / max(1.0, 0.62 * wide))
        shade = np.clip(1.08 - 0.75 * aside**2, 0.25, 1)[None, :, None]
        return cv2.GaussianBlur(canvas * shade, (0, 0), 0.9)


def along(points_N2: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """[K, 2] the places at these shares of a line's way."""
    return np.stack([np.interp(np.multiply(shares, len(points_N2) - 1), np.arange(len(points_N2)), side) for side in points_N2.T], axis=1)
