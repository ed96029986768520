"""livetalk prepare: encode training data; livetalk train: run a recipe."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livetalk_core.engine.frozen import FrozenNetworks
    from livetalk_core.presets import Preset
    from livetalk_core.train.config import Recipe
    from livetalk_core.train.prepare import Tally
    from livetalk_core.train.sample import Clip
    from livetalk_core.train.shards import ShardWriter


def add_prepare(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", help="folder of talking videos, a SpeakerVid-5M or TalkVid list (JSON), or: talker (drawn people)")
    sub.add_argument("out", type=Path, help="folder of shards; new clips are added to an existing one")
    sub.add_argument("--videos", type=Path, metavar="DIR", help="folder with the videos of a list (default: the list's own)")
    sub.add_argument("--chunks", type=int, default=5, metavar="K", help="longest clip, in chunks of 28 frames (default: 5)")
    sub.add_argument("--count", type=int, default=1000, metavar="N", help="number of drawn clips (default: 1000)")
    sub.add_argument(
        "--split", choices=("train", "heldout"), default="train", help="which drawn people, voices and sentences to use (default: train)"
    )
    sub.add_argument("--bucket", metavar="NAME", help="picture sizes: 64, 128, 256, 416, 627, 960 (default: the model's own)")
    sub.add_argument("--bend", action="store_true", help="store bent motion latents too, for training with --set bent_motion=0.25")
    sub.add_argument("--negative", metavar="TEXT", help="negative prompt that the teacher's guidance uses")
    sub.add_argument(
        "--part", default="0/1", metavar="I/N", help="encode part I of N, so that several processes share the source (default: 0/1)"
    )


def add_train(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "recipe", help="one of {sft,dmd}_14b, {vae,enlarger,sft,dmd}_nano, sft_photos; or nano: all of the small model from nothing"
    )
    sub.add_argument("out", type=Path, help="folder of the run: checkpoints, TensorBoard, videos, result; an interrupted run resumes")
    sub.add_argument("--data", type=Path, metavar="DIR", help="folder that livetalk prepare made")
    sub.add_argument(
        "--dit", type=Path, nargs="+", default=(), metavar="FILE", help="DiT to start from; without it Stage 1 starts from random weights"
    )
    sub.add_argument("--teacher", type=Path, nargs="+", default=(), metavar="FILE", help="real score of Stage 2 (default: --dit)")
    sub.add_argument("--vae", type=Path, metavar="FILE", help="VAE with which the data was encoded")
    sub.add_argument("--errors", type=Path, metavar="DIR", help="vae_nano: folder of DiT errors that train nano wrote")
    sub.add_argument("--small", type=Path, metavar="DIR", help="enlarger_nano: folder of small frames that train nano wrote")
    sub.add_argument(
        "--photographs", type=Path, metavar="DIR", help="nano: pictures of people to learn from besides rendered ones, fitted beforehand"
    )
    sub.add_argument("--device", default="auto", help="cpu, cuda (default: cuda where there is one); torchrun starts one process a GPU")
    sub.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change the recipe: steps=50 batch=2 chunks=3 strategy=fixed generator.lr=1e-5",
    )


def run_train(options: argparse.Namespace) -> int:
    """Run one process; for several GPUs: torchrun --nproc_per_node 8 -m livetalk_core.cli train ..."""
    from livetalk_core.train.presets import RECIPES
    from livetalk_core.train.run import Job, train

    if options.recipe == "nano":
        from livetalk_core.train.nano import train_nano

        return report_end(train_nano(options.out, options.device, options.photographs), options.out)
    if options.photographs:
        raise ValueError(f"--photographs is for train nano, not for {options.recipe}, whose data is encoded already")
    if options.recipe not in RECIPES:
        raise ValueError(f"recipe {options.recipe!r} must be nano, or one of {', '.join(RECIPES)}")
    recipe = change(RECIPES[options.recipe](), options.set)
    job = Job(
        recipe=recipe,
        out=options.out,
        data=options.data,
        dit=tuple(options.dit),
        teacher=tuple(options.teacher),
        vae=options.vae,
        errors=options.errors,
        small=options.small,
        device=options.device,
    )
    return report_end(train(job), options.out)


def report_end(path: Path | None, out: Path) -> int:
    print(f"interrupted and saved; the same command resumes from {out}" if path is None else f"finished: {path}", file=sys.stderr)
    return 0


def change(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with some fields of its run or stage changed. ValueError for an unknown field."""
    for setting in settings:
        name, equals, value = setting.partition("=")
        part = "run" if name in vars(recipe.run) else "stage"
        if not equals:
            raise ValueError(f"--set {setting}: give NAME=VALUE, such as steps=50")
        recipe = replace(recipe, **{part: set_field(vars(recipe)[part], name, value)})
    return recipe


def set_field(config: object, name: str, value: str):
    """The config with one field, or `inner.field`, set to a value written as JSON or as a bare word."""
    first, dot, rest = name.partition(".")
    if first not in vars(config) or bool(dot) != is_dataclass(vars(config)[first]):
        raise ValueError(f"--set {name}: there is no such setting; choose from {', '.join(vars(config))}")
    if dot:
        return replace(config, **{first: set_field(vars(config)[first], rest, value)})
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        parsed = value
    wanted = type(vars(config)[first])
    if wanted is float and type(parsed) is int or wanted is tuple and type(parsed) is list:
        parsed = wanted(parsed)
    if type(parsed) is not wanted:
        raise ValueError(f"--set {name}={value}: must be of type {wanted.__name__}, like {vars(config)[first]}")
    return replace(config, **{first: parsed})


def run_prepare(options: argparse.Namespace, networks: FrozenNetworks, choose) -> int:
    """Encode a source into shards; `choose`: (width, height, bucket) -> size in the bucket."""
    from livetalk_core.train.prepare import NEGATIVE_PROMPT, encode_clips
    from livetalk_core.train.sample import Encoders
    from livetalk_core.train.shards import ShardWriter

    part, parts = parse_part(options.part)
    encoders = Encoders(
        vae=networks.vae,
        audio=networks.audio,
        text=networks.text,
        image=networks.image,
        plan=networks.preset.plan,
        dit=networks.preset.dit,
        bend=options.bend,
    )
    negative, start = NEGATIVE_PROMPT if options.negative is None else options.negative, time.perf_counter()

    def rate(tally: Tally) -> str:
        return f"{tally.added} clips added, {tally.added / (time.perf_counter() - start):.3g} clips/s"

    def tell(tally: Tally) -> None:
        if tally.added % 100 == 0:
            print(rate(tally), file=sys.stderr, flush=True)

    with ShardWriter(options.out, f"{part:03d}") as writer:
        clips, must_give = clips_of(options, part, parts, networks.preset, choose, writer)
        tally = encode_clips(clips, encoders, writer, networks.device, source=options.source, negative=negative, tell=tell)
    if must_give and not tally.added + tally.known:
        raise ValueError(f"{options.source}: no clip could be made of any video; the lines above give the reason for each")
    print(f"{options.out}: {rate(tally)}", file=sys.stderr)
    return 0


def clips_of(
    options: argparse.Namespace, part: int, parts: int, preset: Preset, choose, writer: ShardWriter
) -> tuple[Iterator[Clip], bool]:
    """(clips of this part of the source that are not in the shards, whether it is an error if there are none)."""
    from livetalk_core.train.manifest import VIDEOS, find_segments
    from livetalk_core.train.prepare import done_key, usable_clips

    bucket = options.bucket or preset.bucket
    if options.source == "talker":
        from livetalk_core.train.synthetic import talker_clips

        size = choose(1, 1, bucket)
        return talker_clips(range(part, options.count, parts), 5 + 28 * options.chunks, size[0], options.split, writer.known), False
    segments = list(find_segments(Path(options.source), options.videos))
    if not segments:
        raise ValueError(f"{options.source}: there is no video in it ({', '.join(VIDEOS)}); give a folder of talking videos")
    share = segments[part::parts]
    clips = usable_clips(share, options.chunks, lambda width, height: choose(width, height, bucket), preset.plan, writer)
    return clips, bool(share) and not any(done_key(segment, options.chunks) in writer.done for segment in share)


def parse_part(text: str) -> tuple[int, int]:
    """'2/8' -> (2, 8). ValueError for another form."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ValueError(f"part {text!r} must be I/N with I from 0 to N - 1, such as 0/4")
    return int(part), int(parts)
