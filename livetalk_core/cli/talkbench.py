"""livetalk talkbench: the technical report's evaluation, on a model and on other programs' videos."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from livetalk_core.cli.options import SAME_RESULT, add_engine, engine_fields, engine_options, tell


def add_talkbench(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, help="clips: a.png and a.wav, with or without the true video a.mp4; each subfolder is a set")
    sub.add_argument("--out", type=Path, default=Path("talkbench"), metavar="DIR", help="folder of videos and results (default: talkbench)")
    add_engine(sub, engine_fields(pool=True))
    sub.add_argument("--name", help="name of the model in the tables (default: the model's own)")
    sub.add_argument(
        "--baseline", nargs="+", default=[], metavar="NAME=DIR", help="other programs' videos of the same clips: DIR/SET/CLIP.mp4"
    )
    sub.add_argument("--only-baselines", action="store_true", help="make no videos; measure the baselines")
    sub.add_argument("--metrics-folder", type=Path, metavar="DIR", help="folder of published metric weights; doctor --talkbench lists them")
    sub.add_argument("--measures", nargs="+", default=[], metavar="NAME", help="measure these only (default: all that can be)")
    sub.add_argument("--metrics-device", default="auto", metavar="DEVICE", help="device of the measures (default: cuda where there is one)")
    sub.add_argument("--min-face", type=float, default=100.0, metavar="PX", help="smallest face whose lips are measured (default: 100)")
    sub.add_argument(
        "--part", default="0/1", metavar="I/N", help="take every Nth clip from the Ith on, for several processes (default: 0/1)"
    )
    sub.add_argument("--steps", type=int, help="denoising steps a chunk (default: the model's own)")
    sub.add_argument("--seed", type=int, default=9999, help="seed of the noise (default: 9999)")
    sub.add_argument("--size", default="auto", metavar="WxH", help="size of the model's videos (default: auto)")
    sub.add_argument("--any-size", action="store_true", help="allow a --size that the model was not trained for; the face may not talk")


def add_sets(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("list", type=Path, help="JSON list of TalkVid or SpeakerVid-5M")
    sub.add_argument("out", type=Path, help="folder for train.json, and for the clips in test/short and test/long")
    sub.add_argument("--videos", type=Path, metavar="DIR", help="folder of the videos (default: beside the list)")
    sub.add_argument("--short", type=int, default=100, metavar="N", help="clips under 10 s, each of another speaker (default: 100)")
    sub.add_argument("--long", type=int, default=20, metavar="N", help="clips of 5 minutes, each of another speaker (default: 20)")
    sub.add_argument("--seed", type=int, default=0, help="seed of the choice of speakers (default: 0)")


def run_sets(options: argparse.Namespace) -> int:
    """Make the benchmark's sets."""
    from livetalk_core.evaluate.talkbench.sets import Sets, make_sets

    if min(options.short, options.long) < 0:
        raise ValueError(f"--short {options.short} and --long {options.long} must be 0 or more")
    sets = Sets(out=options.out, short=options.short, long=options.long, seed=options.seed)
    counts = make_sets(options.list, options.videos, sets, tell)
    print(f"{options.out}: {counts['short']} short and {counts['long']} long clips; {counts['train']} rows of other speakers in train.json")
    return 0


def metric_findings(folder: Path | None) -> list:
    """What the benchmark's measures need, as doctor lists it."""
    from livetalk_core.checks.doctor import Finding
    from livetalk_core.evaluate.talkbench.needs import find_needs

    return [
        Finding(what=need.what, good=need.there, found=need.found, needed=False, way_out=need.way_out)
        for need in find_needs(check_folder(folder))
    ]


def run_talkbench(options: argparse.Namespace) -> int:
    """0 if every clip has its video, else 1. What was measured before is not measured again."""
    from livetalk_core.evaluate.talkbench.bench import measure_all
    from livetalk_core.evaluate.talkbench.clips import find_clips, part_of
    from livetalk_core.evaluate.talkbench.measures import Opening, check_measures, open_measures
    from livetalk_core.evaluate.talkbench.outcome import write_outcome

    every = find_clips(options.folder)
    clips, systems = part_of(every, options.part), baselines_of(options.baseline)
    check_baselines(systems, every)
    if options.only_baselines and not systems:
        raise ValueError("--only-baselines needs at least one --baseline NAME=DIR")
    opening = Opening(folder=check_folder(options.metrics_folder), device=device_of(options.metrics_device), least_side=options.min_face)
    check_measures(options.measures, opening)
    failed: list[str] = []
    if not options.only_baselines:
        making = making_of(options)
        if making.system.name in [system.name for system in systems]:
            raise ValueError(f"a baseline is named {making.system.name} like the model; give the model another --name")
        failed, systems = make_missing(options, making, clips), [making.system, *systems]
    results = measure_all(clips, systems, open_measures(options.measures, opening), options.out, tell)
    print(write_outcome(results, options.out, tell))
    for name in failed:
        tell(f"not made: {name}")
    return 1 if failed else 0


def make_missing(options: argparse.Namespace, making, clips: list) -> list[str]:
    """Make the videos that are not there; the engine is closed before anything is measured. Returns the clips that failed."""
    from livetalk_core.cli.making import check_settings, make_videos, missing_clips
    from livetalk_core.cli.signals import stopped_by_signals
    from livetalk_core.open import open_engine

    check_settings(making)
    missing = missing_clips(making, clips)
    if not missing:
        return []
    with stopped_by_signals(), closing(open_engine(engine_options(options), tell)) as engine:
        return make_videos(engine, making, missing)


def making_of(options: argparse.Namespace):
    from livetalk_core.cli.making import Making
    from livetalk_core.evaluate.talkbench.bench import System
    from livetalk_core.types import StreamSettings

    asked = engine_options(options)
    name = check_name(options.name or Path(str(options.model)).name)
    words = ", ".join(f"{key} {value}" for key, value in vars(asked).items() if key not in SAME_RESULT and value is not None)
    steps = {} if options.steps is None else {"steps": options.steps}
    return Making(
        system=System(name=name, videos=options.out / "videos" / name),
        pictures=options.out / "pictures",
        settings=StreamSettings(seed=options.seed, **steps),
        size=options.size,
        any_size=options.any_size,
        engine=words,
    )


def baselines_of(texts: list[str]) -> list:
    """The systems of "NAME=DIR". ValueError for other words or a name given twice, FileNotFoundError for a folder that is not there."""
    from livetalk_core.evaluate.talkbench.bench import System

    systems: list[System] = []
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ValueError(f"baseline {text!r} must be NAME=DIR, such as wav2lip=videos/wav2lip")
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"baseline {name}: there is no folder {folder}; it must hold SET/CLIP.mp4 for the clips")
        if name in [system.name for system in systems]:
            raise ValueError(f"two baselines are named {name}; give each its own name")
        systems.append(System(name=check_name(name), videos=Path(folder)))
    return systems


def check_baselines(systems: list, clips: list) -> None:
    """ValueError, before hours of work, for a folder with videos of none of the clips."""
    for system in systems:
        if not any(system.video_of(clip) for clip in clips):
            first = clips[0]
            raise ValueError(
                f"baseline {system.name}: {system.videos} has a video of none of the {len(clips)} clips; "
                f"it must be named like its clip, such as {system.videos / first.set / first.name}.mp4"
            )


def check_name(name: str) -> str:
    """The name, if a folder can have it."""
    if not name or name in (".", "..") or any(letter in name for letter in '/\\:*?"<>|'):
        raise ValueError(f"{name!r} cannot be a system's name, because a folder is named after it; use letters and digits")
    return name


def check_folder(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"--metrics-folder {folder}: there is no such folder; doctor --talkbench lists the files that it should hold"
        )
    return folder


def device_of(name: str):
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f"--metrics-device {name!r} must be cpu, cuda, cuda:1, or auto") from None
