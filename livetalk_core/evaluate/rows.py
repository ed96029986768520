"""Results as rows: each number with its target, as tables for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHARPEST = 1.25
"""More sharpness than this, relative to the VAE round trip, is noise; true frames have about 1.2."""
MAX_MEMORY_MB = 64
"""Memory that a stream may gain: the evaluation keeps a few numbers for each frame, and allocators vary."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number. `low` and `high` are its target; a number without them has none."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool | None:
        if self.low is None and self.high is None:
            return None
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    @property
    def target(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return f">= {self.low:g}" if self.low is not None else f"<= {self.high:g}" if self.high is not None else ""

    @property
    def verdict(self) -> str:
        return {True: "pass", False: "FAIL", None: ""}[self.passed]


def rows_of(results: dict) -> list[Row]:
    """Every number of the results, with its target."""
    return reader_rows(results["talks"]) + clip_rows(results["talks"]) + (long_rows(results["long"]) if results["long"] else [])


def reader_rows(talks: dict) -> list[Row]:
    """The mouth reader and the VAE: the best that the other numbers can be."""
    return [
        Row(what="reader: opening on true frames, r", value=mean_of(talks, "true_opening"), low=0.99, note=lowest(talks, "true_opening")),
        Row(what="reader: width on true frames, r", value=mean_of(talks, "true_width"), note=lowest(talks, "true_width")),
        Row(what="reader: lips held shut, range of opening", value=mean_of(talks, "shut_range"), high=0.15, note="of a talking mouth's"),
        Row(what="VAE round trip: opening, r (ceiling)", value=mean_of(talks, "rebuilt_opening"), note=lowest(talks, "rebuilt_opening")),
        Row(what="VAE round trip: width, r (ceiling)", value=mean_of(talks, "rebuilt_width"), note=lowest(talks, "rebuilt_width")),
        Row(what="VAE round trip: PSNR, dB", value=mean_of(talks, "rebuilt_psnr"), note=lowest(talks, "rebuilt_psnr")),
        Row(what="VAE round trip: PSNR at the mouth, dB", value=mean_of(talks, "rebuilt_mouth_psnr")),
        Row(what="VAE round trip: background PSNR, dB (ceiling)", value=mean_of(talks, "rebuilt_background_psnr")),
        Row(what="VAE round trip: sharpness of true", value=mean_of(talks, "rebuilt_sharpness"), note="variance of the Laplacian"),
        Row(what="VAE round trip: mean |Laplacian| of true", value=mean_of(talks, "rebuilt_magnitude")),
    ]


def clip_rows(talks: dict) -> list[Row]:
    """The engine on held-out clips."""
    clips = len(talks["clips"])
    return [
        Row(what="opening, r", value=mean_of(talks, "made_opening"), low=0.90, note=lowest(talks, "made_opening")),
        Row(
            what="opening, best lag, frames",
            value=talks["lag"],
            low=-1,
            high=1,
            note=f"{talks['lags_within_one']} of {clips} clips within 1",
        ),
        Row(
            what="opening, r with another clip's truth", value=talks["shuffled"], high=0.15, note=f"of truths {talks['shuffled_truth']:.3f}"
        ),
        Row(what="width, r", value=mean_of(talks, "made_width"), low=0.6, note=lowest(talks, "made_width")),
        Row(what="rounding, r", value=mean_of(talks, "made_rounding")),
        Row(what="range of opening, of round trip", value=mean_of(talks, "made_range")),
        Row(what="background PSNR, dB", value=mean_of(talks, "background_psnr"), low=32, note=lowest(talks, "background_psnr")),
        Row(
            what="sharpness, of round trip",
            value=mean_of(talks, "sharpness"),
            low=0.8,
            high=SHARPEST,
            note="variance of the Laplacian",
        ),
        Row(what="mean |Laplacian|, of round trip", value=mean_of(talks, "magnitude"), low=0.8, high=SHARPEST),
        Row(what="sharpness of the talker, of round trip", value=mean_of(talks, "talker_sharpness"), note="without the background"),
        Row(what="sharpness at the mouth, of round trip", value=mean_of(talks, "mouth_sharpness")),
        Row(what="color shift, of 255", value=mean_of(talks, "color_shift"), note=f"true clips {mean_of(talks, 'true_color_shift'):.2f}"),
        Row(what="motion, of round trip", value=mean_of(talks, "motion")),
        Row(what="step at a chunk's seam, of others", value=mean_of(talks, "seam_jump")),
    ]


def long_rows(long: dict) -> list[Row]:
    """The end of the long stream against its start."""
    head, lips, background = f"{long['seconds']:g} s: ", long["lips"]["opening"], long["background_psnr"]
    ends = f"{lips['first']:.3f} to {lips['last']:.3f}"
    memory = long["memory_mb"]
    return [
        Row(what=f"{head}opening, r", value=lips["all"], low=0.90),
        Row(what=f"{head}change of r", value=long["lips_change"], low=-0.05, note=ends),
        Row(what=f"{head}change of sharpness", value=long["sharpness_change"], low=-0.05, high=0.05),
        Row(what=f"{head}change of mean |Laplacian|", value=long["magnitude_change"], low=-0.05, high=0.05),
        Row(what=f"{head}change of color", value=long["color_change"], low=-0.05, high=0.05, note="the channel that changes most"),
        Row(what=f"{head}sharpness, of round trip", value=long["sharpness"]),
        Row(what=f"{head}background PSNR at the end, dB", value=background["last"], note=f"at the start {background['first']:.1f}"),
        Row(
            what=f"{head}memory gained, MB",
            value=memory["last"] - memory["first"],
            high=MAX_MEMORY_MB,
            note=f"after the first {long['window_s']:g} s",
        ),
        Row(what=f"{head}frames per second", value=long["frames_per_second"], note="measuring included"),
    ]


def mean_of(talks: dict, name: str) -> float:
    return talks["numbers"][name]["mean"]


def lowest(talks: dict, name: str) -> str:
    return f"lowest {talks['numbers'][name]['min']:.3g}"


def aligned(rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = [f"{row.what:46} {row.value:9.3f}  {row.target:14} {row.verdict:5} {row.note}".rstrip() for row in rows]
    return "\n".join([f"{'':46} {'found':>9}  {'target':14}", *lines])


def markdown(runs: dict[str, list[Row]]) -> str:
    """Runs side by side under their names, with the targets and notes of the first."""
    lines = [f"| | {' | '.join(runs)} | target | |", f"|---|{'---|' * len(runs)}---|---|"]
    found = {name: {row.what: row for row in rows} for name, rows in runs.items()}
    for row in next(iter(runs.values())):
        cells = [rows.get(row.what) for rows in found.values()]
        texts = ["" if cell is None else f"**{cell.value:.3f}**" if cell.passed is False else f"{cell.value:.3f}" for cell in cells]
        lines.append(f"| {row.what.replace('|', chr(92) + '|')} | {' | '.join(texts)} | {row.target} | {row.note} |")
    return "\n".join(lines)
