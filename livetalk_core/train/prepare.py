"""Encodes clips into shards, so that the frozen networks run once per clip. Unusable videos are logged and skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from livetalk_core.plan import StreamPlan
from livetalk_core.train.cut import Choose, cut_clips
from livetalk_core.train.manifest import Segment
from livetalk_core.train.sample import Clip, Encoders, encode_clip
from livetalk_core.train.shards import NULL_KEY, ShardWriter

log = logging.getLogger(__name__)

NEGATIVE_PROMPT = "a still picture, too bright, out of focus, letters across it, the face distorted"
"""Used when the prompt is dropped. If the teacher's guidance uses another negative prompt, use that one."""


def prepare(
    clips: Iterable[Clip], encoders: Encoders, folder: Path, device: torch.device, *, source: str, negative: str = NEGATIVE_PROMPT,
    part: str = "000",
) -> int:  # fmt: skip
    """Encode clips into a folder of shards, skipping those already there. Returns the number added."""
    with ShardWriter(folder, part) as writer:
        return encode_clips(clips, encoders, writer, device, source=source, negative=negative).added


@dataclass(kw_only=True)
class Tally:
    """Numbers of clips."""

    added: int = 0
    known: int = 0
    """Clips that were in the shards before."""


def encode_clips(
    clips: Iterable[Clip], encoders: Encoders, writer: ShardWriter, device: torch.device, *, source: str, negative: str,
    tell: Callable[[Tally], None] = lambda tally: None,
) -> Tally:  # fmt: skip
    """Encode clips into shards, skipping known ones; `tell` is called after each new clip."""
    tally = Tally()
    if NULL_KEY not in writer.known:
        null = {"text": encoders.text(negative).bfloat16().cpu()}
        writer.add(NULL_KEY, null, width=0, height=0, chunks=0, source="negative prompt")
    for clip in clips:
        if clip.key in writer.known:
            tally.known += 1
            continue
        height, width = clip.frames_THWC.shape[1:3]
        tensors = encode_clip(clip, encoders, device)
        writer.add(clip.key, tensors, width=width, height=height, chunks=len(tensors["latents"]), source=source)
        tally.added += 1
        tell(tally)
    return tally


def usable_clips(
    segments: Iterable[Segment], chunks: int, choose: Choose, plan_of: Callable[[int, int], StreamPlan], writer: ShardWriter | None = None
) -> Iterator[Clip]:
    """The clips of many segments; a file that is broken, silent or too short is logged and skipped.

    Segments whose clips are all in the `writer`'s shards are not read.
    """
    for segment in segments:
        if writer is not None and done_key(segment, chunks) in writer.done:
            continue
        try:
            yield from cut_clips(segment, chunks, choose, plan_of)
        except (ValueError, OSError) as error:
            log.warning("skipped %s: %s", segment.key, error)
            continue
        if writer is not None:
            writer.finish(done_key(segment, chunks))


def done_key(segment: Segment, chunks: int) -> str:
    """Names a segment and how it was cut."""
    return f"{segment.source}/{segment.key} in {chunks} chunks"
