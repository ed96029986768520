"""The mouth that speech asks for as face units: lips, jaw and tongue, each as fast as it can move.

Axes: T frames, U units. Units are ARKit's: jawOpen, mouthClose, mouthFunnel, ...
"""

from __future__ import annotations

import numpy as np

from livetalk_core.talker.heads.shape import Face
from livetalk_core.talker.viseme import FPS, MouthTrack

JAW_HZ = 5.0
"""The jaw is heavier than the lips: it follows them with this much bandwidth (half power)."""
FULL_GAP = 0.115
"""The gap between the lips at opening 1, as a share of the face's height."""
BOTH = ("Left", "Right")


def speak_units(track: MouthTrack, face: Face, articulation: float = 1.0) -> np.ndarray:
    """[T, U] amounts of every unit. `articulation` 0.7 mumbles, 1.2 overacts."""
    units_TU = np.zeros((len(track), len(face.names)), np.float32)

    def add(name: str, amount_T: np.ndarray) -> None:
        units_TU[:, face.at(name)] += amount_T

    def pair(name: str, amount_T: np.ndarray) -> None:
        for side in BOTH:
            add(f"{name}{side}", amount_T)

    shut_T = np.clip(track.closure_T, 0, 1)
    gap_T = articulation * track.opening_T * (1 - shut_T)
    round_T, spread_T = track.rounding_T, np.clip(track.width_T, 0, 1)
    narrow_T = np.clip(-track.width_T, 0, 1)
    tucked_T = track.teeth_T * np.clip(1 - track.tongue_T / 0.25, 0, 1)
    hissed_T = track.teeth_T - tucked_T
    add("jawOpen", smooth(0.50 * gap_T * (1 - 0.25 * round_T) + 0.02, JAW_HZ))
    add("mouthPucker", np.clip(0.62 * round_T + 0.2 * narrow_T, 0, 1) * (1 - 0.3 * gap_T))
    add("mouthFunnel", 0.45 * round_T * (0.4 + gap_T))
    pair("mouthStretch", 0.24 * spread_T)
    pair("mouthSmile", 0.16 * spread_T)
    pair("mouthUpperUp", 0.28 * hissed_T + 0.30 * gap_T * (1 - round_T) + 0.25 * tucked_T)
    pair("mouthLowerDown", 0.30 * hissed_T + 0.10 * gap_T)
    pair("mouthPress", 0.30 * shut_T)
    add("mouthRollLower", 0.75 * tucked_T + 0.30 * shut_T)
    add("mouthRollUpper", 0.25 * shut_T)
    add("tongueOut", 0.30 * np.clip(track.tongue_T - 0.9, 0, 0.1) * 10 * np.clip(track.teeth_T / 0.25, 0, 1) * (track.teeth_T > 0.2))
    return units_TU


def smooth(values_T: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """A Gaussian over frames."""
    sigma = np.sqrt(np.log(2)) / (2 * np.pi * cutoff_hz) * FPS
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values_T, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
