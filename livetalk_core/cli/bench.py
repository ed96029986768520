"""The command line of measuring: livetalk bench."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from contextlib import closing
from pathlib import Path

from livetalk_core.cli.options import add_model, add_pool

NOT_SAID = {"run", "verbose", "parser", "json", "report", "files"}
"""Options that change nothing in the numbers."""
ROOM = 1.25
"""Memory for random weights and what is worked out with them, over the weights' own."""


def add_bench(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    add_pool(sub)
    sub.add_argument("--size", default="auto", metavar="WxH", help="picture size (default: the model's own)")
    sub.add_argument("--chunks", type=int, default=5, metavar="N", help="chunks to time after the warm-up (default: 5)")
    sub.add_argument("--steps", type=int, metavar="N", help="denoising steps a chunk (default: the model's own)")
    sub.add_argument("--counters", action="store_true", help="only count the 14B model's work: no weights, no times, the same everywhere")
    sub.add_argument("--random-weights", action="store_true", help="random weights for a preset, such as livetalk_14b without its files")
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    sub.add_argument("--report", type=Path, metavar="PAGE", help="measure nothing: write a Markdown page of the FILEs, made with --json")
    sub.add_argument("files", type=Path, nargs="*", metavar="FILE", help="results for --report, the first with the counted numbers")
    sub.set_defaults(parser=sub)


def run_bench(options: argparse.Namespace) -> int:
    """Count, measure, print; or write a page of what was printed before."""
    from livetalk_core.bench.report import page_of, print_report

    if options.files and options.report is None:
        raise ValueError(f"{options.files[0]} would not be used; name the page to write with --report PAGE")
    if options.report is not None:
        options.report.write_text(page_of(read_reports(options.files)))
        return 0
    report = make_report(options)
    print(json.dumps(report, indent=1)) if options.json else print_report(report)
    return 0


def read_reports(paths: list[Path]) -> list[dict]:
    """ValueError for a file that `livetalk bench --json` did not write."""
    if not paths:
        raise ValueError("--report needs the files to write of: livetalk bench --json > FILE, then --report PAGE FILE")
    reports = []
    for path in paths:
        try:
            report = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}); write it with livetalk bench --json > {path}") from None
        if not isinstance(report, dict) or not {"command", "counted", "torch"} <= set(report):
            raise ValueError(f"{path} is not what livetalk bench --json prints; write it with livetalk bench --json > {path}")
        reports.append(report)
    return reports


def make_report(options: argparse.Namespace) -> dict:
    """The counted numbers of the large model, and unless they are all that is asked for, the measured ones of the model named."""
    import torch

    from livetalk_core.bench.counted import count_large

    start = {"command": command_of(options), "torch": torch.__version__}
    if options.counters:
        return start | {"counted": count_large()}
    if options.chunks < 1:
        raise ValueError(f"chunks={options.chunks} must be 1 or more")
    with closing(open_engine(options)) as engine:
        measured = measure(engine, options.size, options.chunks, options.steps, options.decoder is not None)
        measured["random_weights"] = options.random_weights or not engine.preset.trained
        measured |= {"compile": options.compile, "fast": options.fast, "attention": kernels_of(options, engine)}
    return start | measured | {"counted": count_large()}


def kernels_of(options: argparse.Namespace, engine) -> list[str]:
    """What attention ran with: what was asked for, or the kernels that were measured to be the fastest, each with its calls."""
    from livetalk_core.models.attention import chosen
    from livetalk_core.pool.pool import Pool

    if isinstance(engine, Pool):
        return [f"{options.attention}, chosen in every worker"]
    return [f"{name}: {case}" for case, name in chosen().items()] or ["torch's own, the only one for a CPU"]


def measure(engine, size: str, chunks: int, steps: int | None = None, tiny_decoder: bool = False) -> dict:
    """A stream's times and, in one process, every part's, against what the machine can do and what was counted."""
    from livetalk_core.bench.ceilings import measure_ceilings
    from livetalk_core.bench.counted import count_components, count_weights
    from livetalk_core.bench.measure import bench_plan, run_bench, time_components
    from livetalk_core.bench.shares import part_rows, stage_rows
    from livetalk_core.engine.denoiser import Cuts
    from livetalk_core.pool.overhead import measure as measure_pool
    from livetalk_core.pool.pool import Pool

    plan, in_pool = bench_plan(engine, size), isinstance(engine, Pool)
    cuts = Cuts() if in_pool else engine.cuts(plan)
    ceilings = measure_ceilings(engine.device, engine.dtype)
    report = run_bench(engine, size, chunks, steps)
    rows = count_components(engine.preset, (plan.width, plan.height), engine.dtype, cuts, tiny_decoder)
    pool, devices, seconds = {}, 1, {}
    if in_pool:
        pool = {"peak_memory_mb": engine.stats()["peak_mb"], "pool": measure_pool(engine)}
        devices = engine.placement.num_workers if engine.device.type == "cuda" else 1
    else:
        seconds = time_components(engine, plan, cuts)
        report["deviations"] = {option: error for (option, *_), error in engine.deviations.found.items()}
        report["decoder_psnr_db"] = next(iter(engine.deviations.psnr_db.values()), None)
    counted = {
        "dit_parameters": count_weights(engine.preset),
        "cuts": vars(cuts),
        "ceilings": ceilings,
        "components": part_rows(rows, seconds, ceilings),
        "stages": stage_rows(rows, report, ceilings, devices),
    }
    return report | pool | counted


def open_engine(options: argparse.Namespace):
    """The engine that the options name. ValueError for random weights of what is no preset, or has no room."""
    from livetalk_core.open import open_engine

    if not options.random_weights:
        return open_engine(options, sys.stderr)
    from livetalk_core.bench.networks import free_bytes, random_engine, weight_bytes
    from livetalk_core.engine.load import accelerate, check_fast, choose_device
    from livetalk_core.models.attention import select_kernel
    from livetalk_core.models.weights import read_tiny_decoder
    from livetalk_core.open import named_dtype
    from livetalk_core.presets import BY_NAME

    if options.model not in BY_NAME:
        raise ValueError(f"random weights need a preset, and {options.model!r} is none; choose {', '.join(BY_NAME)}")
    if options.workers is not None or options.gpus != "1":
        raise ValueError("random weights are made in one process; leave out --workers and --gpus, or give the model's folder")
    import torch

    device = choose_device(options.device)
    dtype = named_dtype(options) or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    preset = BY_NAME[options.model]()
    needed, free = ROOM * weight_bytes(preset, dtype), free_bytes(device)
    if needed > free:
        raise ValueError(
            f"{options.model} needs {needed / 1e9:.0f} GB on {device}, and {free / 1e9:.0f} GB are free; use --counters, which need none"
        )
    select_kernel(options.attention)
    check_fast(options.fast)
    tiny = None if options.decoder is None else read_tiny_decoder(options.decoder)
    print(f"model {options.model}: RANDOM WEIGHTS, good for times only", file=sys.stderr)
    return accelerate(random_engine(preset, device, dtype), options.compile, options.fast, options.graphs, tiny)


def command_of(options: argparse.Namespace) -> str:
    """The command that these options come from, without what changes no number."""
    defaults, words = vars(options.parser.parse_args([])), ["livetalk", "bench"]
    for name, value in vars(options).items():
        if name in NOT_SAID or value == defaults.get(name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
    return shlex.join(words)
