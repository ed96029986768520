"""livetalk bench: count, measure, write the page of results."""

from __future__ import annotations

import argparse
import json
import shlex
from contextlib import closing
from pathlib import Path

from livetalk_core.cli.options import add_engine, engine_fields, engine_options, tell

NO_EFFECT = {"run", "verbose", "parser", "json", "page", "files", "parts", "kernel_table"}
"""Options that do not change the numbers."""
ACCEPTED = {"run", "verbose", "accept", "parts", "model", "device", "dtype", "size", "kernel_table"}
"""Options that mean something to --accept."""
GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
"""In a clone of the repository; an installed package has none."""


def add_bench(sub: argparse.ArgumentParser) -> None:
    add_engine(sub, engine_fields(pool=True))
    sub.add_argument("--size", default="auto", metavar="WxH", help="picture size (default: the model's own)")
    sub.add_argument("--chunks", type=int, default=5, metavar="N", help="chunks to time after the warm-up (default: 5)")
    sub.add_argument("--steps", type=int, metavar="N", help="denoising steps a chunk (default: the model's own)")
    sub.add_argument("--counters", action="store_true", help="only count the 14B model's work; needs no weights and no GPU")
    sub.add_argument("--random-weights", action="store_true", help="random weights for a preset, such as livetalk_14b, without files")
    sub.add_argument("--accept", type=Path, metavar="OUT.json", help="check and time everything on this device, part by part; resumes")
    sub.add_argument("--parts", nargs="+", default=[], metavar="PART", help="only these parts of --accept; failed ones are tried again")
    sub.add_argument("--kernel-table", type=Path, metavar="FILE", help="write the fastest attention kernels of --accept as a table")
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    sub.add_argument("--page", type=Path, metavar="PAGE", help="do not measure; write a Markdown page from FILEs of --json and --accept")
    sub.add_argument("files", type=Path, nargs="*", metavar="FILE", help="results for --page")
    sub.set_defaults(parser=sub)


def run_bench(options: argparse.Namespace) -> int:
    """Measure and print; or write a page from what was printed before."""
    if options.files and options.page is None:
        raise ValueError(f"{options.files[0]} would not be used; name the page to write with --page PAGE")
    if options.page is not None:
        from livetalk_core.bench.page import read_reports, write_page

        options.page.write_text(write_page(read_reports(options.files)), encoding="utf-8")
        return 0
    if options.accept is not None:
        return run_accept(options)
    if options.kernel_table is not None:
        raise ValueError(f"--kernel-table {options.kernel_table} is written by --accept; add --accept OUT.json")
    if options.parts:
        raise ValueError(f"--parts {' '.join(options.parts)} are parts of --accept; add --accept OUT.json")
    from livetalk_core.bench.tables import print_report

    report = make_report(options)
    print(json.dumps(report, indent=1)) if options.json else print_report(report)
    return 0


def run_accept(options: argparse.Namespace) -> int:
    """Measure what OUT.json does not have yet. 0 if every check passes and no part fails, else 1."""
    from livetalk_core.bench.accept import accept, failed
    from livetalk_core.bench.accept_parts import PARTS

    if unused := [name for name in given(options) if name not in ACCEPTED]:
        raise ValueError(f"--accept measures every option itself; leave out --{unused[0].replace('_', '-')}")
    target = target_of(options)
    if options.kernel_table is not None and target.place.type != "cuda":
        raise ValueError(f"--kernel-table needs a GPU, and the device is {target.device}; leave it out")
    limits_s = {name: part.limit_s for name, part in PARTS.items()}
    report = accept(options.accept, target, command_of(options), limits_s, options.parts)
    if options.kernel_table is not None:
        from livetalk_core.bench.accept_attention import write_table

        write_table(report, target, options.kernel_table)
        print(f"{options.kernel_table}: use it with LIVETALK_KERNEL_TABLE={options.kernel_table}")
    print(f"{options.accept}: livetalk bench --page docs/performance.md {options.accept} writes its tables")
    return 1 if failed(report) else 0


def target_of(options: argparse.Namespace):
    """The device and the model. Without --model: the 14B model on a GPU, and tiny in its place on a CPU."""
    import torch

    from livetalk_core.bench.accept import Target
    from livetalk_core.engine.load import choose_device
    from livetalk_core.presets import BY_NAME

    device, model = choose_device(options.device), options.model
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda:0")  # a process group asks for the number
    if model == "nano":  # measured in any case
        model = "livetalk_14b" if device.type == "cuda" else "tiny"
    if model not in BY_NAME:
        raise ValueError(f"--accept measures a preset with random weights, and {model!r} is none; choose livetalk_14b or tiny")
    if device.type != "cuda":
        tell(f"{device}: no GPU, so GPU kernels and the speed of the 14B model do not apply; {model} stands in")
    dtype = options.dtype if options.dtype != "auto" else "bfloat16" if device.type == "cuda" else "float32"
    golden = str(GOLDEN) if GOLDEN.is_dir() else None
    return Target(device=str(device), dtype=dtype, model=model, size=options.size, golden=golden)


def make_report(options: argparse.Namespace) -> dict:
    """The counted work of the 14B model and, without --counters, the measurement of the engine."""
    import torch

    from livetalk_core.bench.counts import count_14b

    report = {"command": command_of(options), "torch": torch.__version__}
    if not options.counters:
        report |= measure(options)
    return report | {"counted": count_14b()}


def measure(options: argparse.Namespace) -> dict:
    """The measurement of the engine, and the options that it was opened with."""
    from livetalk_core.bench.measurement import measure_engine

    if options.chunks < 1:
        raise ValueError(f"chunks={options.chunks} must be 1 or more")
    with closing(open_engine(options)) as engine:
        report = measure_engine(engine, options.size, options.chunks, options.steps, options.decoder is not None)
        report["random_weights"] = options.random_weights or not engine.preset.trained
        return report | {"compile": options.compile, "weights": options.weights, "attention": kernels_of(options, engine)}


def kernels_of(options: argparse.Namespace, engine) -> list[str]:
    """The attention kernels in use, each with its calls; of a pool, the one that was asked for."""
    from livetalk_core.models.attention import chosen
    from livetalk_core.pool.pool import Pool

    if isinstance(engine, Pool):
        return [f"{options.attention}, chosen in every worker"]
    return [f"{name}: {case}" for case, name in chosen().items()] or ["torch's own, the only one on a CPU"]


def open_engine(options: argparse.Namespace):
    """The engine that the options name."""
    from livetalk_core.open import open_engine

    asked = engine_options(options)
    if not options.random_weights:
        return open_engine(asked, tell)
    from livetalk_core.bench.random_engine import check_room, random_engine
    from livetalk_core.engine.assemble import assemble
    from livetalk_core.engine.load import choose_device
    from livetalk_core.engine.weight_plan import WeightPlan, settle_whole
    from livetalk_core.models.attention import select_kernel
    from livetalk_core.models.weights import read_tiny_decoder
    from livetalk_core.presets import BY_NAME

    if asked.model not in BY_NAME:
        raise ValueError(f"--random-weights needs a preset, and {asked.model!r} is none; choose {', '.join(BY_NAME)}")
    if asked.in_pool:
        raise ValueError("--random-weights works in one process; leave out --workers and --gpus, or give the model's folder")
    import torch

    device = choose_device(asked.device)
    dtype = asked.torch_dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    preset = BY_NAME[asked.model]()
    check_room(preset, device, dtype)
    select_kernel(asked.attention)
    tiny = None if asked.decoder is None else read_tiny_decoder(asked.decoder)
    tell(f"model {asked.model}: RANDOM WEIGHTS, for times only")
    engine = random_engine(preset, device, dtype)
    settle_whole(engine.models.dit, WeightPlan(device=device, dtype=dtype, form=asked.weights))
    return assemble(engine, asked, tiny=tiny)


def command_of(options: argparse.Namespace) -> str:
    """The command line of these options, without those that do not change the numbers."""
    words = ["livetalk", "bench"]
    for name, value in given(options).items():
        if name in NO_EFFECT:
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def given(options: argparse.Namespace) -> dict[str, object]:
    """The options that differ from their defaults."""
    defaults = vars(options.parser.parse_args([]))
    return {name: value for name, value in vars(options).items() if name != "parser" and value != defaults.get(name)}
