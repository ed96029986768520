"""Results as tables, pictures and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

RESULTS, STUDY = "results", "study"
"""Parts of a page that `update_page` replaces."""
NOISE = 1.25
"""Sharpness above this, next to the round trip, is noise: true frames have about 1.2."""
MEMORY_MB = 64
"""What a stream may gain: a few numbers a frame are kept, and the allocator has its moods."""
LABEL_H = 14
"""Pixels of a row's heading in a contact sheet."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. `low` and `high` are the target; a number without one is only told."""

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
    """Every number of a run's results, with its target."""
    return reader_rows(results["talks"]) + talk_rows(results["talks"]) + (long_rows(results["long"]) if results["long"] else [])


def reader_rows(talks: dict) -> list[Row]:
    """The instrument and the VAE: what the other numbers can be at best."""
    return [
        Row(what="reader: opening on true frames, r", value=mean_of(talks, "true_opening"), low=0.99, note=least(talks, "true_opening")),
        Row(what="reader: width on true frames, r", value=mean_of(talks, "true_width"), note=least(talks, "true_width")),
        Row(what="reader: lips held shut, range of opening", value=mean_of(talks, "shut_range"), high=0.15, note="of a talking mouth's"),
        Row(what="VAE round trip: opening, r (ceiling)", value=mean_of(talks, "rebuilt_opening"), note=least(talks, "rebuilt_opening")),
        Row(what="VAE round trip: width, r (ceiling)", value=mean_of(talks, "rebuilt_width"), note=least(talks, "rebuilt_width")),
        Row(what="VAE round trip: PSNR, dB", value=mean_of(talks, "rebuilt_psnr"), note=least(talks, "rebuilt_psnr")),
        Row(what="VAE round trip: PSNR at the mouth, dB", value=mean_of(talks, "rebuilt_mouth_psnr")),
        Row(what="VAE round trip: background PSNR, dB (ceiling)", value=mean_of(talks, "rebuilt_background_psnr")),
        Row(what="VAE round trip: sharpness of true", value=mean_of(talks, "rebuilt_sharpness"), note="variance of the Laplacian"),
        Row(what="VAE round trip: mean |Laplacian| of true", value=mean_of(talks, "rebuilt_magnitude")),
    ]


def talk_rows(talks: dict) -> list[Row]:
    """What the engine makes of held-out speech."""
    clips = len(talks["clips"])
    return [
        Row(what="opening, r", value=mean_of(talks, "made_opening"), low=0.90, note=least(talks, "made_opening")),
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
        Row(what="width, r", value=mean_of(talks, "made_width"), low=0.6, note=least(talks, "made_width")),
        Row(what="rounding, r", value=mean_of(talks, "made_rounding")),
        Row(what="range of opening, of round trip", value=mean_of(talks, "made_range")),
        Row(what="background PSNR, dB", value=mean_of(talks, "background_psnr"), low=32, note=least(talks, "background_psnr")),
        Row(what="sharpness, of round trip", value=mean_of(talks, "sharpness"), low=0.8, high=NOISE, note="variance of the Laplacian"),
        Row(what="mean |Laplacian|, of round trip", value=mean_of(talks, "magnitude"), low=0.8, high=NOISE),
        Row(what="sharpness of the talker, of round trip", value=mean_of(talks, "talker_sharpness"), note="background left out"),
        Row(what="sharpness at the mouth, of round trip", value=mean_of(talks, "mouth_sharpness")),
        Row(what="color shift, of 255", value=mean_of(talks, "color_shift"), note=f"true clips {mean_of(talks, 'true_color_shift'):.2f}"),
        Row(what="motion, of round trip", value=mean_of(talks, "motion")),
        Row(what="step at a chunk's seam, of others", value=mean_of(talks, "seam_jump")),
    ]


def long_rows(long: dict) -> list[Row]:
    """The long stream's end against its start."""
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
            high=MEMORY_MB,
            note=f"after the first {long['window_s']:g} s",
        ),
        Row(what=f"{head}frames per second", value=long["frames_per_second"], note="with the measuring"),
    ]


def mean_of(talks: dict, name: str) -> float:
    return talks["numbers"][name]["mean"]


def least(talks: dict, name: str) -> str:
    return f"least {talks['numbers'][name]['min']:.3g}"


def table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = [f"{row.what:46} {row.value:9.3f}  {row.target:14} {row.verdict:5} {row.note}".rstrip() for row in rows]
    return "\n".join([f"{'':46} {'found':>9}  {'target':14}", *lines])


def markdown(runs: dict[str, list[Row]]) -> str:
    """Runs side by side, by their names; targets and notes are the first one's."""
    lines = [f"| | {' | '.join(runs)} | target | |", f"|---|{'---|' * len(runs)}---|---|"]
    found = {name: {row.what: row for row in rows} for name, rows in runs.items()}
    for row in next(iter(runs.values())):
        cells = [rows.get(row.what) for rows in found.values()]
        texts = ["" if cell is None else f"**{cell.value:.3f}**" if cell.passed is False else f"{cell.value:.3f}" for cell in cells]
        lines.append(f"| {row.what.replace('|', chr(92) + '|')} | {' | '.join(texts)} | {row.target} | {row.note} |")
    return "\n".join(lines)


def marks(part: str) -> tuple[str, str]:
    """The lines around a part of a Markdown page."""
    return f"<!-- {part} -->", f"<!-- end of {part} -->"


def check_page(page: Path, part: str) -> None:
    """ValueError for a page that has no place for this part."""
    begin, end = marks(part)
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if end not in text.partition(begin)[2]:
        raise ValueError(f"{page} must be a page with the lines {begin} and {end} in it")


def update_page(page: Path, text: str, part: str = RESULTS) -> None:
    """Put text between a Markdown page's two marks of a part. ValueError for a page without them."""
    check_page(page, part)
    begin, end = marks(part)
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def contact_sheet(rows: Sequence[tuple[str, Sequence[Tensor]]], path: Path) -> None:
    """Rows of pictures uint8 [H, W, 3] of one size, each row under its heading; written as JPEG or PNG."""
    height, width = rows[0][1][0].shape[:2]
    columns = max(len(pictures) for _, pictures in rows)
    sheet = Image.new("RGB", (columns * width, len(rows) * (height + LABEL_H)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (heading, pictures) in enumerate(rows):
        top = index * (height + LABEL_H)
        draw.text((3, top + 1), heading, fill="black")
        for column, picture_HWC in enumerate(pictures):
            sheet.paste(Image.fromarray(picture_HWC.to(torch.uint8).numpy()), (column * width, top + LABEL_H))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=92)


def need_plots() -> None:
    """ValueError when plots cannot be drawn: asked before hours of work, not after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(f"the plot of a long run needs matplotlib ({error}); pip install matplotlib, or use --seconds 0") from None


def plot_long(long: dict, path: Path) -> None:
    """The long run's series over time, one above the other, as PNG."""
    from matplotlib.figure import Figure

    series, minutes = long["series"], [second / 60 for second in long["series"]["second"]]
    kinds = {
        "opening": "lips: r",
        "sharpness": "sharpness",
        "color_shift": "color shift, of 255",
        "background_psnr": "background, dB",
    }
    figure = Figure(figsize=(9, 8), layout="constrained")
    for axis, (name, label) in zip(figure.subplots(len(kinds), 1, sharex=True), kinds.items(), strict=True):
        axis.plot(minutes, series[name], color="#2f5d66", linewidth=1.2)
        axis.set_ylabel(label)
        axis.set_ylim(min(0, *series[name]), 1 if name == "opening" else 1.25 * max(series[name]) + 1e-6)
        axis.grid(alpha=0.25)
    axis.set_xlabel("minutes")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
