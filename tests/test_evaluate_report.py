"""Tables, sheets and plots of results, and the command that makes them."""

import argparse
import json
import sys

import numpy as np
import pytest
import torch
from drawn import toy_clip, toy_readers
from PIL import Image

from livetalk_core.cli import evaluate as command
from livetalk_core.engine.load import load_engine
from livetalk_core.evaluate import evaluation, report, rows
from livetalk_core.evaluate.clips import measure_clips, summarize
from livetalk_core.evaluate.report import RESULTS, marks
from livetalk_core.evaluate.rows import Row
from livetalk_core.types import StreamSettings

BEGIN, END = marks(RESULTS)


def options(out, *words):
    parser = argparse.ArgumentParser()
    command.add_evaluate(parser)
    return parser.parse_args([str(out), *words])


@pytest.mark.parametrize(
    "row, target, verdict",
    [
        (Row(what="a", value=0.9, low=0.9), ">= 0.9", "pass"),
        (Row(what="a", value=0.16, high=0.15), "<= 0.15", "FAIL"),
        (Row(what="a", value=-0.06, low=-0.05, high=0.05), "-0.05 to 0.05", "FAIL"),
        (Row(what="a", value=float("nan"), low=0.9), ">= 0.9", "FAIL"),
        (Row(what="a", value=3.0), "", ""),
    ],
)
def test_a_number_passes_within_its_target_only(row, target, verdict):
    assert (row.target, row.verdict) == (target, verdict)
    assert verdict in rows.aligned([row])


def test_runs_stand_side_by_side_and_a_missing_number_stays_empty():
    first = [Row(what="mean |x|", value=0.5, low=0.8, note="n"), Row(what="long", value=2.0)]
    text = rows.markdown({"teacher": first, "nano": [Row(what="mean |x|", value=0.9, low=0.8)]})
    assert text.splitlines() == [
        "| | teacher | nano | target | |",
        "|---|---|---|---|---|",
        "| mean \\|x\\| | **0.500** | 0.900 | >= 0.8 | n |",
        "| long | 2.000 |  |  |  |",
    ]


def test_a_page_keeps_all_but_what_is_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# A\n{BEGIN}\nold\n{END}\nafter {END}\n")
    report.update_page(page, "new")
    report.update_page(page, "newer")
    assert page.read_text() == f"# A\n{BEGIN}\n\nnewer\n\n{END}\nafter {END}\n"
    page.write_text("# A\n")
    with pytest.raises(ValueError, match="must be a Markdown page with the lines <!-- results -->"):
        report.update_page(page, "new")


def test_a_sheet_shows_each_picture_under_its_heading(tmp_path):
    sheet_rows = [("one", [torch.full((8, 6, 3), 10), torch.full((8, 6, 3), 90)]), ("two", [torch.full((8, 6, 3), 200)])]
    report.contact_sheet(sheet_rows, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (8 + report.LABEL_H), 12, 3)
    pictures = sheet.reshape(2, -1, 2, 6, 3)[:, report.LABEL_H :]
    assert [[int(pictures[row, :, column].mean()) for column in (0, 1)] for row in (0, 1)] == [[10, 90], [200, 255]]


def test_a_plot_has_a_line_for_each_series(tmp_path):
    pytest.importorskip("matplotlib")
    points = {name: [0.5, 0.6, 0.7] for name in ("opening", "sharpness", "magnitude", "color_shift", "background_psnr")}
    report.plot_long({"series": {"second": [0, 10, 20], **points}}, tmp_path / "deep" / "long.png")
    assert Image.open(tmp_path / "deep" / "long.png").size == (990, 880)


def test_without_matplotlib_a_long_run_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="need matplotlib .* or evaluate with --seconds 0"):
        command.evaluation_of(options(tmp_path))
    command.evaluation_of(options(tmp_path, "--seconds", "0"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--clips", "1"], "clips=1 must be 2 or more"),
        (["--clip-seconds", "0.5"], "clip_seconds=0.5 must be 1 or more"),
        (["--seconds", "100"], "seconds=100 must be two windows of 60 s or more, or 0"),
        (["--seconds", "0", "--against", "none.json"], "none.json do not exist"),
        (["--seconds", "0", "--page", "none.md"], "none.md must be a Markdown page with the lines"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_at_the_start(tmp_path, words, message, monkeypatch):
    monkeypatch.setattr(evaluation, "need_plots", lambda: None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command.run_evaluate(options(tmp_path, *words))


def test_the_command_measures_writes_and_compares(tmp_path, monkeypatch, capsys):
    toy_readers()
    monkeypatch.setattr(
        "livetalk_core.evaluate.evaluation.true_clips",
        lambda seeds, seconds, size: (toy_clip(940 + seed, round(25 * seconds) // 4 * 4 + 1, size) for seed in seeds),
    )
    monkeypatch.setattr("livetalk_core.evaluate.reader.find_reader", lambda *_: toy_readers()[0])
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    words = ["--model", "tiny", "--device", "cpu", "--clips", "2", "--clip-seconds", "1", "--seconds", "0", "--steps", "1"]
    assert command.run_evaluate(options(tmp_path / "one", *words)) == 1
    again = [*words, "--name", "again", "--against", str(tmp_path / "one" / "results.json"), "--page", str(page)]
    assert command.run_evaluate(options(tmp_path / "two", *again)) == 1
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["talks"] == two["talks"] and one["name"] == "tiny, 1 steps" and one["long"] is None
    assert one["settings"]["shift"] == 5.0 and one["settings"]["size"] == 64
    assert [row["what"] for row in one["rows"]] == [row.what for row in rows.rows_of(one)]
    assert "| | again | tiny, 1 steps | target | |" in page.read_text()
    assert Image.open(tmp_path / "one" / "sheet.jpg").size[0] % 64 == 0
    assert "FAIL" in capsys.readouterr().out


def test_results_of_the_same_seed_are_the_same_and_of_another_seed_are_not():
    engine, clip = load_engine("tiny", device="cpu"), toy_clip(950, 29, 64)
    found = [summarize(measure_clips(engine, toy_readers()[0], [clip], StreamSettings(steps=1, seed=seed), len)) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
