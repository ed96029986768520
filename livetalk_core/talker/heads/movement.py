"""How a filmed person moves besides speaking: nods and sways, glances, blinks, small changes of expression.

Everything is a function of time, so any moment can be asked for. Angles are radians, lengths decimeters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.viseme import FPS

CLOSING_S, SHUT_S, OPENING_S = 0.10, 0.11, 0.18
BLINK_EVERY_S = (2.0, 6.0)
SACCADE_S = 0.045
WANDERING = (
    "browInnerUp", "browDownLeft", "browDownRight", "browOuterUpLeft", "browOuterUpRight", "mouthSmileLeft", "mouthSmileRight",
    "cheekSquintLeft", "cheekSquintRight", "eyeSquintLeft", "eyeSquintRight", "mouthLeft", "mouthRight", "mouthFrownLeft",
    "mouthFrownRight", "noseSneerLeft", "noseSneerRight", "mouthDimpleLeft", "mouthDimpleRight", "jawLeft", "jawRight",
)  # fmt: skip
"""Units that drift a little."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The head at one time."""

    yaw: float = 0.0
    pitch: float = 0.0
    """Turn to the picture's right and down, radians."""
    roll: float = 0.0
    """Radians, clockwise in the picture."""
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    """Shift to the picture's right, up and toward the camera, decimeters."""
    blink: float = 0.0
    """0 open, 1 shut."""
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    """Where the eyes look against the head, radians to the picture's right and up."""
    expression: tuple[tuple[str, float], ...] = ()
    """(unit, amount)."""


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Everything random about one take."""

    phases_CK: np.ndarray
    rates_CK: np.ndarray
    """K slow waves for each channel: phase, and frequency in Hz."""
    amount: float
    """0 is a head held still, 1 a lively one."""
    turn: tuple[float, float, float]
    """How the person sits: yaw, pitch, roll."""
    blinks_s: np.ndarray
    """When each blink begins, rising."""
    looks_s: np.ndarray
    looks_2: np.ndarray
    """When the gaze jumps, and where it then rests, radians."""
    smile: float
    wide: float
    """-1 narrowed, 1 widened eyes."""

    @classmethod
    def sample(cls, seed: int, seconds: float) -> Movement:
        """The movement of a seed, for times from -10 s to `seconds` + 10 s."""
        rng = np.random.default_rng([seed, 909])
        span = seconds + 20.0
        blinks = np.cumsum(rng.uniform(*BLINK_EVERY_S, int(span / 2) + 2)) - 10.0 - rng.uniform(0, 2)
        looks = np.cumsum(rng.gamma(2.0, 0.7, int(span * 2) + 8)) - 10.0
        away = rng.random((len(looks), 1)) < 0.45
        channels = 6 + len(WANDERING)
        return cls(
            phases_CK=rng.uniform(0, 2 * np.pi, (channels, 5)),
            rates_CK=rng.uniform(0.05, 0.7, (channels, 5)),
            amount=float(rng.uniform(0.25, 1.0)),
            turn=(float(rng.normal(0, 0.14)), float(rng.normal(0, 0.055)), float(rng.normal(0, 0.035))),
            blinks_s=blinks,
            looks_s=looks,
            looks_2=rng.normal(0, (0.13, 0.06), (len(looks), 2)) * away + rng.normal(0, 0.012, (len(looks), 2)),
            smile=float(rng.beta(1.1, 2.6)),
            wide=float(np.clip(rng.normal(0.1, 0.35), -1, 1)),
        )

    def at(self, second: float, stress: float = 0.0) -> Moment:
        """The moment at a time; `stress` 0 to 1 is how loud the voice is and moves head and brows."""
        waves = self.drift(second)
        yaw = self.turn[0] + self.amount * 0.11 * waves[0]
        pitch = self.turn[1] + self.amount * (0.055 * waves[1] + 0.05 * (stress - 0.3))
        look_x, look_y = self.look(second)
        return Moment(
            yaw=float(yaw),
            pitch=float(pitch),
            roll=float(self.turn[2] + self.amount * (0.04 * waves[2] + 0.012 * stress * np.sin(2 * second))),
            x=float(0.05 * self.amount * waves[3]),
            y=float(0.03 * self.amount * waves[4] - 0.015 * stress),
            z=float(0.12 * self.amount * waves[5]),
            blink=self.blink(second),
            gaze_x=float(np.clip(look_x - 0.9 * yaw, -0.5, 0.5)),
            gaze_y=float(np.clip(look_y + 0.9 * pitch, -0.35, 0.35)),
            expression=self.expression(waves[6:], stress),
        )

    def drift(self, second: float) -> np.ndarray:
        """[C] channels, about -1 to 1: slower waves weigh more."""
        weight = 1 / (0.15 + self.rates_CK)
        weight /= np.sqrt((weight**2).sum(1, keepdims=True) / 2)
        return 0.6 * (weight * np.sin(2 * np.pi * self.rates_CK * second + self.phases_CK)).sum(1)

    def blink(self, second: float) -> float:
        """Lids fall in two or three frames and rise in four or five."""
        after = second - self.blinks_s
        after = after[after > 0]
        return lids_after(float(after[-1])) if len(after) else 0.0

    def look(self, second: float) -> tuple[float, float]:
        """Eyes rest, then jump within one or two frames."""
        now = max(int(np.searchsorted(self.looks_s, second)) - 1, 1)
        moved = float(np.clip((second - self.looks_s[now]) / SACCADE_S, 0, 1))
        x, y = self.looks_2[now - 1] + (self.looks_2[now] - self.looks_2[now - 1]) * moved
        return float(x), float(y)

    def expression(self, waves: np.ndarray, stress: float) -> tuple[tuple[str, float], ...]:
        """Units that make a face live: what it rests in, and what drifts."""
        amounts = {name: 0.13 * max(0.0, float(wave)) for name, wave in zip(WANDERING, waves, strict=True)}
        for side in ("Left", "Right"):
            amounts[f"mouthSmile{side}"] += 0.16 + 0.36 * self.smile
            amounts[f"cheekSquint{side}"] += 0.25 * self.smile
            amounts[f"browOuterUp{side}"] += 0.18 * stress
            amounts[f"eyeWide{side}"] = 0.35 * max(0.0, self.wide)
            amounts[f"eyeSquint{side}"] += 0.5 * max(0.0, -self.wide)
        amounts["browInnerUp"] += 0.16 + 0.2 * stress
        return tuple(amounts.items())


def lids_after(second: float) -> float:
    """How far the lids are shut this long after a blink began."""
    if not 0 < second < CLOSING_S + SHUT_S + OPENING_S:
        return 0.0
    down, up = np.clip(second / CLOSING_S, 0, 1), np.clip((second - CLOSING_S - SHUT_S) / OPENING_S, 0, 1)
    return float(np.sin(np.pi / 2 * down) ** 2 * (1 - np.sin(np.pi / 2 * up) ** 1.5))


def stress_of(loud_T: np.ndarray, level: float) -> np.ndarray:
    """[T] 0 to 1: how loud the voice is about each frame, in a third of a second."""
    window = np.hanning(FPS // 2)
    return np.clip(np.convolve(loud_T, window / window.sum(), mode="same")[: len(loud_T)] / level, 0, 1)
