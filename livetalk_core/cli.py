"""The command line: livetalk generate | parity | bench | doctor."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from livetalk_core import __version__

INTERRUPTED, BAD_INPUT = 130, 2
ASSETS = Path(__file__).parent / "assets"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 good, 1 a check failed, 2 bad input (one line on stderr), 130 interrupted."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        message = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
        return fail(message)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return fail(f"out of GPU memory: {error}; use a smaller --size or another --device")
    except KeyboardInterrupt:
        print("livetalk: interrupted", file=sys.stderr)
        return INTERRUPTED


def fail(message: str) -> int:
    print(f"livetalk: error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    top = Parser(prog="livetalk", description="Endless talking video from one picture and speech.")
    top.add_argument("--version", action="version", version=f"livetalk {__version__}")
    top.add_argument("--verbose", action="store_true", help="say what is chosen: attention kernel, files")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_generate(command(commands, "generate", run_generate, "make a talking video from a picture and speech"))
    parity = command(commands, "parity", run_parity, "compare our numbers with the published system's golden tensors")
    parity.add_argument("--golden", type=Path, required=True, metavar="DIR", help="folder of golden .safetensors files")
    bench = command(commands, "bench", run_bench, "time every stage of a chunk on this machine")
    add_model(bench)
    bench.add_argument("--size", default="auto", metavar="WxH", help="picture size (default: the model's own)")
    bench.add_argument("--chunks", type=int, default=5, metavar="N", help="chunks to time after one warm-up (default: 5)")
    doctor = command(commands, "doctor", run_doctor, "look at this machine and the model files; say what is missing")
    add_model(doctor)
    for sub in (parity, bench, doctor):
        sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return top


def command(commands, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    sub.set_defaults(run=run)
    return sub


def add_generate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("picture", nargs="?", type=Path, default=ASSETS / "portrait.png", help="portrait, any format (default: a sample)")
    sub.add_argument("audio", nargs="?", type=Path, default=ASSETS / "speech.flac", help="speech, sound or video file (default: a sample)")
    sub.add_argument("output", nargs="?", type=Path, default=Path("talking.mp4"), help="MP4 to write (default: talking.mp4)")
    add_model(sub)
    sub.add_argument("--prompt", help="what the picture shows (default: the published prompt)")
    sub.add_argument(
        "--size", default="auto", metavar="WxH", help="pixels, multiples of 16; or a bucket: 64, 128, 416, 627, 960 (default: auto)"
    )
    sub.add_argument("--seed", type=int, default=9999, help="0 or more; the same seed gives the same video (default: 9999)")
    sub.add_argument("--steps", type=int, default=4, help="denoising steps a chunk (default: 4)")
    sub.add_argument("--shift", type=float, default=5.0, help="time shift of the schedule, above 0 (default: 5)")
    sub.add_argument("--color-strength", type=float, default=1.0, help="0 to 1: how far colors are held to the picture (default: 1)")
    sub.add_argument("--no-loudness", action="store_true", help="do not bring the sound to -23 LUFS before the audio encoder")
    sub.add_argument(
        "--whole-audio", action="store_true", help="hear the whole recording at once, past and future (for minutes, not hours)"
    )
    sub.add_argument("--second-audio", type=Path, help="the second speaker's sound, as long as the first's or not")
    sub.add_argument("--masks", type=Path, nargs=2, metavar=("FIRST", "SECOND"), help="pictures, white where each speaker is")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")


def add_model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", default="tiny", help="tiny (random weights), or the folder of SoulX-FlashTalk-14B (default: tiny)")
    sub.add_argument("--dit", type=Path, nargs="+", metavar="FILE", help="DiT files; a Wan 2.1 I2V base may be followed by its audio patch")
    for part, text in (("vae", "VAE"), ("text", "umT5 encoder"), ("image", "CLIP vision encoder"), ("audio-encoder", "wav2vec2 encoder")):
        sub.add_argument(f"--{part}", type=Path, metavar="FILE", help=f"{text} file instead of the folder's")
    sub.add_argument("--tokenizer", type=Path, metavar="DIR", help="folder of umT5's tokenizer.json instead of the model folder's")
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    sub.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="precision (default: bfloat16 on cuda)")
    sub.add_argument("--attention", default="auto", help="attention kernel: auto, sdpa, flash2, flash3 (default: auto)")


def run_generate(options: argparse.Namespace) -> int:
    from livetalk_core.generate import Job, check_inputs, generate
    from livetalk_core.presets import PROMPT
    from livetalk_core.progress import Progress
    from livetalk_core.types import StreamSettings

    settings = StreamSettings(
        seed=options.seed,
        steps=options.steps,
        shift=options.shift,
        color_strength=options.color_strength,
        loudness=not options.no_loudness,
        whole_audio=options.whole_audio,
    )
    job = Job(
        picture=options.picture,
        audio=(options.audio, options.second_audio) if options.second_audio else (options.audio,),
        output=options.output,
        prompt=PROMPT if options.prompt is None else options.prompt,
        size=options.size,
        masks=tuple(options.masks or ()),
        overwrite=options.overwrite,
        settings=settings,
    )
    inputs = check_inputs(job)
    for note in inputs.picture.notes:
        print(f"picture: {note}")
    engine = open_engine(options)
    progress = Progress()
    try:
        with progress:
            generate(engine, inputs, progress.show)
    except KeyboardInterrupt:
        if progress.frames:
            print(f"stopped: {job.output} holds the {progress.frames} frames made so far")
        raise
    print(f"{job.output}: {progress.frames} frames, {progress.frames / 25:.2f} s of video in {progress.seconds:.1f} s")
    return 0


def open_engine(options: argparse.Namespace):
    """The engine that the model options name; says so when its weights are random."""
    import torch

    from livetalk_core.checkpoints import ModelFiles, find_files
    from livetalk_core.engine import load_engine
    from livetalk_core.models.attention import select_kernel
    from livetalk_core.presets import BY_NAME

    select_kernel(options.attention)
    given = {
        "dit": tuple(options.dit or ()),
        "vae": options.vae,
        "text": options.text,
        "image": options.image,
        "audio": options.audio_encoder,
        "tokenizer": options.tokenizer,
    }
    model = options.model
    if any(given.values()):
        found = ModelFiles() if model in BY_NAME else find_files(Path(model))
        model = found.override(**given)
    dtype = None if options.dtype == "auto" else getattr(torch, options.dtype)
    engine = load_engine(model, options.device, dtype)
    if not engine.preset.trained:
        print(f"model {engine.preset.name}: RANDOM WEIGHTS, so the picture is a pattern, not a face; it shows that everything runs")
    return engine


def run_parity(options: argparse.Namespace) -> int:
    from livetalk_core.parity import run_parity

    results = list(run_parity(options.golden))
    failed = [result for result in results if not result.passed]
    if options.json:
        rows = [{"file": r.file, "what": r.what, "error": r.error, "limit": r.limit, "passed": r.passed} for r in results]
        print(json.dumps({"passed": not failed, "results": rows}, indent=1))
    else:
        print(f"{'file':18} {'what':30} {'max error':>10} {'limit':>7}")
        for r in results:
            print(f"{r.file:18} {r.what:30} {r.error:10.2e} {r.limit:7.0e} {'pass' if r.passed else 'FAIL'}")
        print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def run_bench(options: argparse.Namespace) -> int:
    from livetalk_core.bench import print_report, run_bench

    report = run_bench(open_engine(options), options.size, options.chunks)
    print(json.dumps(report, indent=1)) if options.json else print_report(report)
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    from livetalk_core.doctor import examine

    findings = examine(options.model)
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.good else 'MISS' if finding.needed else '-   '} {finding.what:18} {finding.found}")
            if not finding.good and finding.way_out:
                print(f"     {'':18} {finding.way_out}")
    return 1 if any(finding.needed and not finding.good for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
