"""Results on pages, as contact sheets and as plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

RESULTS, STUDY = "results", "study"
"""The parts of a page that `update_page` can replace."""
LABEL_H = 14
"""Pixels of a row's heading in a contact sheet."""


def marks(part: str) -> tuple[str, str]:
    """The lines around a part of a Markdown page."""
    return f"<!-- {part} -->", f"<!-- end of {part} -->"


def check_page(page: Path, part: str) -> None:
    """ValueError for a page without the marks of this part."""
    begin, end = marks(part)
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if end not in text.partition(begin)[2]:
        raise ValueError(f"{page} must be a Markdown page with the lines {begin} and {end}")


def update_page(page: Path, text: str, part: str = RESULTS) -> None:
    """Replace the text between the two marks of a part. ValueError for a page without them."""
    check_page(page, part)
    begin, end = marks(part)
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def contact_sheet(rows: Sequence[tuple[str, Sequence[Tensor]]], path: Path) -> None:
    """Write rows of pictures, uint8 [H, W, 3] of one size, each row under its heading, as JPEG or PNG."""
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
    """ValueError without matplotlib. Call it before hours of work, not after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(f"plots need matplotlib ({error}); pip install matplotlib, or evaluate with --seconds 0") from None


def plot_long(long: dict, path: Path) -> None:
    """Write the long stream's series over time, one above the other, as PNG."""
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
