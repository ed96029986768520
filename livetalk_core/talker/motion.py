"""Movement of a speaking head: slow drift, glances and blinks, as functions of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.identity import Pose

BLINK_S = 0.24
"""Duration of a blink, from open through shut to open."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """The random parameters of one person's movement; `pose` evaluates it at a time in seconds, which may be negative."""

    phases_CK: np.ndarray
    """Phase of each of K slow waves for each channel, radians."""
    rates_CK: np.ndarray
    """Their frequencies, Hz."""
    amount: float
    """0 is a head held still, 1 a lively one."""
    blinks_s: np.ndarray
    """Middle of each blink, ascending."""
    glances_s: np.ndarray
    """Times of gaze jumps, ascending."""
    glances_2: np.ndarray
    """[jumps, 2]: gaze direction after each jump, -1 to 1."""
    smile: float

    @classmethod
    def sample(cls, seed: int, seconds: float) -> Motion:
        """The movement of a seed, for times from -10 s to `seconds` + 10 s."""
        rng = np.random.default_rng([seed, 17])
        span = seconds + 20.0
        blinks = np.cumsum(rng.gamma(4.0, 0.8, int(span) + 8)) - 10.0
        glances = np.cumsum(rng.gamma(2.0, 0.7, int(span * 2) + 8)) - 10.0
        rests = rng.normal(0, 0.28, (len(glances), 2)) * (rng.random((len(glances), 1)) < 0.6)
        return cls(
            phases_CK=rng.uniform(0, 2 * np.pi, (8, 4)),
            rates_CK=rng.uniform(0.06, 0.55, (8, 4)),
            amount=float(rng.uniform(0.12, 0.45)),
            blinks_s=blinks,
            glances_s=glances,
            glances_2=np.clip(rests, -1, 1),
            smile=float(rng.beta(1.6, 2.4)),
        )

    def pose(self, second: float, stress: float = 0.0) -> Pose:
        """The pose at a time; `stress`, 0 to 1, is the loudness of the voice and lifts head and brows a little."""
        x, y, roll, scale, yaw, pitch, brow, smile = (self.amount * self.drift(second)).tolist()
        gaze_x, gaze_y = self.gaze(second)
        return Pose(
            x=0.022 * x,
            y=0.014 * y - 0.004 * stress,
            roll=0.055 * roll,
            scale=1 + 0.022 * scale,
            yaw=0.62 * yaw,
            pitch=0.5 * pitch - 0.12 * stress,
            blink=self.blink(second),
            gaze_x=float(np.clip(gaze_x - 0.25 * yaw, -1, 1)),
            gaze_y=float(np.clip(gaze_y - 0.2 * pitch, -1, 1)),
            brow=float(np.clip(0.45 * brow + 0.3 * stress, -1, 1)),
            smile=float(np.clip(0.7 * self.smile + 0.25 * smile, 0, 1)),
        )

    def drift(self, second: float) -> np.ndarray:
        """[8] channels, about -1 to 1: slower waves weigh more."""
        weight = 1 / (0.15 + self.rates_CK)
        weight /= np.sqrt((weight**2).sum(1, keepdims=True) / 2)
        return 0.6 * (weight * np.sin(2 * np.pi * self.rates_CK * second + self.phases_CK)).sum(1)

    def blink(self, second: float) -> float:
        """How far the lids are shut, 0 to 1; closing takes a third of the blink."""
        after = (second - self.blinks_s + BLINK_S / 3) / BLINK_S
        inside = after[(after > 0) & (after < 1)]
        if len(inside) == 0:
            return 0.0
        part = inside / (1 / 3) if inside[0] < 1 / 3 else (1 - inside) / (2 / 3)
        return float(np.sin(np.pi / 2 * part[0]) ** 2)

    def gaze(self, second: float) -> tuple[float, float]:
        """Gaze direction: constant between jumps, which take a few hundredths of a second."""
        now = int(np.searchsorted(self.glances_s, second)) - 1
        old, new = self.glances_2[max(now - 1, 0)], self.glances_2[max(now, 0)]
        moved = float(np.clip((second - self.glances_s[max(now, 0)]) / 0.06, 0, 1))
        x, y = old + (new - old) * moved
        return float(x), float(y)
