"""The command line: livetalk generate, parity, bench, doctor, serve, live, inspect, prepare, train, evaluate, talkbench, study, curves."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from livetalk_core import __version__
from livetalk_core.cli.bench import add_bench, run_bench
from livetalk_core.cli.evaluate import add_evaluate, run_evaluate
from livetalk_core.cli.inspect import add_inspect, run_inspect
from livetalk_core.cli.live import add_live, run_live
from livetalk_core.cli.options import BAD_INPUT, SAME_RESULT, Parser, add_engine, add_generate, engine_fields, engine_options
from livetalk_core.cli.say import say
from livetalk_core.cli.serve import add_serve, run_serve
from livetalk_core.cli.study import add_curves, add_study, run_curves, run_study
from livetalk_core.cli.talkbench import add_sets, add_talkbench, metric_findings, run_sets, run_talkbench
from livetalk_core.cli.train import add_prepare, add_train, run_train

INTERRUPTED, FAILED = 130, 1


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit status: 0 success, 1 a check or worker failed, 2 bad input (one line on stderr), 130 interrupted."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        return fail(words_of(error))
    except ImportError as error:
        if error.name is not None:  # a module that Python did not find; where a package is optional, a line of ours says what to install
            raise
        return fail(str(error))
    except RuntimeError as error:
        if type(error).__name__ in ("WorkerFailure", "NoRoom"):
            return fail(str(error), FAILED)
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return fail(f"out of GPU memory: {error}; use a smaller --size or another --device")
    except KeyboardInterrupt:
        say("livetalk: interrupted", sys.stderr)
        return INTERRUPTED


def words_of(error: ValueError | OSError) -> str:
    """The error's own words; of one that the system found, its reason with the file it is about."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}; check the path and its permissions" if error.filename else error.strerror


def fail(message: str, status: int = BAD_INPUT) -> int:
    say(f"livetalk: error: {' '.join(message.split())}", sys.stderr)
    return status


def parser() -> Parser:
    top = Parser(prog="livetalk", description="Endless talking video from one picture and speech.")
    top.add_argument("--version", action="version", version=f"livetalk {__version__}")
    top.add_argument("--verbose", action="store_true", help="print what is chosen, such as attention kernel and files")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_generate(command(commands, "generate", run_generate, "make a talking video from a picture and speech"))
    parity = command(commands, "parity", run_parity, "compare our numbers with the published system's golden tensors")
    parity.add_argument("--golden", type=Path, required=True, metavar="DIR", help="folder of golden .safetensors files")
    add_bench(command(commands, "bench", run_bench, "count the work of every part, time it on this machine, write the page of results"))
    add_serve(command(commands, "serve", run_serve, "serve streams over the network from a pool of workers"))
    add_live(command(commands, "live", run_live, "talk with an avatar in the browser: the service, and a page to try it on"))
    add_inspect(command(commands, "inspect", run_inspect, "tell where a video comes from: Content Credentials and watermark"))
    prepare = command(commands, "prepare", run_prepare, "encode talking videos into training shards")
    add_prepare(prepare)
    add_engine(prepare, engine_fields(pool=False))
    add_train(command(commands, "train", run_train, "train by a recipe; an interrupted run resumes"))
    add_evaluate(command(commands, "evaluate", run_evaluate, "measure how well a small model talks, on drawn people it has never seen"))
    add_talkbench(command(commands, "talkbench", run_talkbench, "measure talking videos as the technical report does"))
    add_sets(command(commands, "talkbench-sets", run_sets, "make the benchmark's clips from TalkVid or SpeakerVid-5M, speakers apart"))
    add_study(command(commands, "study", run_study, "compare Stage 2 settings on a small model, several seeds each"))
    add_curves(command(commands, "curves", run_curves, "plot the curves of training runs"))
    doctor = command(commands, "doctor", run_doctor, "check this machine and the model files; list what is missing")
    doctor.add_argument("files", nargs="*", type=Path, metavar="FILE", help="say what each of these checkpoint files is, and nothing else")
    add_engine(doctor, engine_fields(pool=False))
    doctor.add_argument("--talkbench", action="store_true", help="list the weights and packages that talkbench's measures need")
    doctor.add_argument("--metrics-folder", type=Path, metavar="DIR", help="folder of those weights")
    for sub in (parity, doctor):
        sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return top


def command(commands, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    sub.set_defaults(run=run)
    return sub


def run_generate(options: argparse.Namespace) -> int:
    from livetalk_core.cli.progress import Progress
    from livetalk_core.cli.signals import stopped_by_signals
    from livetalk_core.generate import Job, Report, check_inputs, generate
    from livetalk_core.open import open_engine
    from livetalk_core.presets import PROMPT
    from livetalk_core.provenance.marking import MarkOptions
    from livetalk_core.stream.prompts import parse_prompts
    from livetalk_core.types import StreamSettings

    asked = engine_options(options)
    settings = StreamSettings(
        seed=options.seed,
        steps=options.steps,
        shift=options.shift,
        last_noise=options.last_noise,
        color_strength=options.color_strength,
        loudness=not options.no_loudness,
        whole_audio=options.whole_audio,
        audio_strength=options.audio_strength,
        prompts=parse_prompts(options.prompt_at or ()),
        text_guidance=options.text_guidance,
        audio_guidance=options.audio_guidance,
        negative_prompt=options.negative_prompt,
    )
    job = Job(
        picture=options.picture,
        audio=(options.audio, options.second_audio) if options.second_audio else (options.audio,),
        output=options.output,
        prompt=PROMPT if options.prompt is None else options.prompt,
        size=options.size,
        audio_track=options.audio_track,
        split_channels=options.split_channels,
        any_size=options.any_size,
        crop=options.crop,
        paste_back=options.paste_back,
        masks=tuple(options.masks or ()),
        overwrite=options.overwrite,
        resume=options.resume,
        engine=", ".join(f"{name} {value}" for name, value in vars(asked).items() if name not in SAME_RESULT and value is not None),
        settings=settings,
        marks=MarkOptions(
            credentials=not options.no_credentials,
            watermark=options.watermark,
            sign_cert=options.sign_cert,
            sign_key=options.sign_key,
            sign_prompt=options.sign_prompt,
        ),
    )
    saved: list[tuple[Path, int]] = []
    progress = Progress()
    report = Report(chunk=progress.show, note=say, resumed=progress.begin_at, saved=lambda path, frames: saved.append((path, frames)))
    with stopped_by_signals():
        inputs = check_inputs(job)
        for note in (*inputs.notes, inputs.marking.note):
            say(note)
        engine = open_engine(asked, say, job.prompt)
        try:
            with closing(engine), progress:
                generate(engine, inputs, report=report)
        except BaseException:
            for path, frames in saved:
                say(f"stopped: {path} has the {frames} frames made so far")
            raise
    ((path, frames),) = saved
    say(f"{path}: {frames} frames, {frames / 25:.2f} s of video in {progress.seconds:.1f} s")
    return 0


def run_parity(options: argparse.Namespace) -> int:
    from livetalk_core.checks.parity import run_parity

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


def run_prepare(options: argparse.Namespace) -> int:
    from livetalk_core.cli import train as training
    from livetalk_core.engine.frozen import load_frozen
    from livetalk_core.sizes import choose_size

    return training.run_prepare(options, load_frozen(engine_options(options)), choose_size)


def run_doctor(options: argparse.Namespace) -> int:
    from livetalk_core.checks.doctor import examine, examine_checkpoints

    if options.files:
        findings = list(examine_checkpoints(options.files))
    else:
        findings = metric_findings(options.metrics_folder) if options.talkbench else examine(engine_options(options).model)
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=1))
    elif options.files:
        print("\n".join(f"{'ok' if finding.good else 'no'}   {finding.what}: {finding.found}" for finding in findings))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.good else 'MISS' if finding.needed else '-   '} {finding.what:18} {finding.found}")
            if not finding.good and finding.way_out:
                print(f"     {'':18} {finding.way_out}")
    return 1 if any(finding.needed and not finding.good for finding in findings) else 0
