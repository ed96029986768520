"""Prompts that change with time: how they are written, and which chunk each begins with."""

from __future__ import annotations

import math
from collections.abc import Iterable

from livetalk_core.plan import StreamPlan
from livetalk_core.types import TimedPrompt


def parse_prompt(line: str) -> TimedPrompt:
    """A prompt written as SECONDS:TEXT. ValueError for anything else."""
    time, colon, text = line.partition(":")
    try:
        seconds = float(time)
    except ValueError:
        seconds = math.nan
    if not colon or math.isnan(seconds):
        raise ValueError(f"prompt {line[:60]!r} must be SECONDS:TEXT, for example 12.5:A person is laughing.")
    return TimedPrompt(seconds=seconds, text=text.strip())


def parse_prompts(lines: Iterable[str]) -> tuple[TimedPrompt, ...]:
    """Prompts from lines of SECONDS:TEXT; empty lines are left out."""
    return tuple(parse_prompt(line) for line in lines if line.strip())


def first_chunk(prompt: TimedPrompt, plan: StreamPlan) -> int:
    """The first chunk whose new frames begin at the prompt's time or later."""
    return math.ceil(prompt.seconds * plan.fps / plan.new_frames - 1e-6)
