"""Classifier-free guidance by prompt and sound, as InfiniteTalk and MultiTalk are used with: which passes of the DiT it needs, and how
their velocities are combined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from livetalk_core.types import StreamSettings


class Pass(NamedTuple):
    """What one pass of the DiT sees in place of the stream's own prompt and sound."""

    negative: bool = False
    """The negative prompt."""
    silent: bool = False
    """Features of zeros, of one speaker."""


FULL, NEGATIVE, SILENT, NEITHER = Pass(), Pass(negative=True), Pass(silent=True), Pass(negative=True, silent=True)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Scales of the guidance; 1 is none and costs no pass."""

    text: float = 1.0
    audio: float = 1.0
    negative_LD: Tensor | None = None
    """Rows of the negative prompt; used if `text` is not 1."""

    @classmethod
    def of(cls, settings: StreamSettings, rows: Mapping[str, Tensor] | None = None) -> Guidance:
        """That of settled settings. `rows`: those of its texts."""
        negative_LD = (rows or {}).get(settings.negative_prompt or "")
        return cls(text=settings.text_guidance, audio=settings.audio_guidance, negative_LD=negative_LD)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes of a step: 1 to 3."""
        by_text = (NEGATIVE,) if self.text != 1 else ()
        by_audio = () if self.audio == 1 else (NEITHER,) if by_text else (SILENT,)
        return (FULL, *by_text, *by_audio)

    def combine(self, velocity: Mapping[Pass, Tensor]) -> Tensor:
        """The guided velocity from that of each pass (generate_infinitetalk of MeiGen-AI/InfiniteTalk, without its APG)."""
        full = velocity[FULL]
        if self.text == 1:
            return full if self.audio == 1 else velocity[SILENT] + self.audio * (full - velocity[SILENT])
        by_text = self.text * (full - velocity[NEGATIVE])
        if self.audio == 1:
            return velocity[NEGATIVE] + by_text
        return velocity[NEITHER] + by_text + self.audio * (velocity[NEGATIVE] - velocity[NEITHER])


def batches(passes: tuple[Pass, ...], *, together: bool, two_speakers: bool) -> list[tuple[Pass, ...]]:
    """The passes that one call of the DiT makes. Passes with one speaker's sound and with two are never in one call."""
    if not together:
        return [(each,) for each in passes]
    ordered = sorted(passes, key=lambda each: two_speakers and each.silent)
    return [tuple(group) for _, group in groupby(ordered, key=lambda each: two_speakers and each.silent)]
