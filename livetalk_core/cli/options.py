"""Arguments of the command line, with ranges and defaults."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import Field, fields
from pathlib import Path
from typing import NoReturn

from livetalk_core.engine.options import EngineOptions, option_of

BAD_INPUT = 2
ASSETS = Path(__file__).parents[1] / "assets"
SAME_RESULT = ("memory", "size")
"""Engine options that may differ when a run is resumed, since the result does not depend on them."""


class Parser(argparse.ArgumentParser):
    """Reports wrong arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def tell(line: str) -> None:
    """Print a note on stderr; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def add_generate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("picture", nargs="?", type=Path, default=ASSETS / "portrait.jpg", help="portrait, any format (default: a sample)")
    sub.add_argument("audio", nargs="?", type=Path, default=ASSETS / "speech.flac", help="speech, sound or video file (default: a sample)")
    sub.add_argument("output", nargs="?", type=Path, default=Path("talking.mp4"), help="MP4 to write (default: talking.mp4)")
    add_engine(sub, engine_fields(pool=True))
    sub.add_argument("--prompt", help="what the picture shows (default: the published prompt)")
    sub.add_argument(
        "--size", default="auto", metavar="WxH", help="pixels, multiples of 16; or a bucket: 64, 128, 256, 416, 627, 960 (default: auto)"
    )
    sub.add_argument(
        "--prompt-at",
        action="append",
        metavar="SECONDS:TEXT",
        help="another prompt from that time on, with the first chunk that starts then or later; may be given several times",
    )
    sub.add_argument("--seed", type=int, default=9999, help="0 or more; the same seed gives the same video (default: 9999)")
    sub.add_argument(
        "--steps",
        type=int,
        help="denoising steps a chunk; fewer than 4 are faster but lossy, and their error is printed (default: the model's own, mostly 4)",
    )
    sub.add_argument("--shift", type=float, help="time shift of the schedule, above 0 (default: the model's own)")
    sub.add_argument("--last-noise", type=float, help="0 to 1: how much noise is added before the last step (default: the model's own)")
    sub.add_argument(
        "--color-strength", type=float, default=1.0, help="how strongly colors are matched to the picture, 0 to 1 (default: 1)"
    )
    sub.add_argument(
        "--audio-strength", type=float, default=1.0, help="how strongly the sound moves the face, 0 to 2 (default: 1, as trained)"
    )
    sub.add_argument(
        "--text-guidance", type=float, metavar="SCALE", help="guidance by the prompt, 0 to 20; 1: none (default: the model's own)"
    )
    sub.add_argument(
        "--audio-guidance", type=float, metavar="SCALE", help="guidance by the sound, 0 to 20; 1: none (default: the model's own)"
    )
    sub.add_argument("--negative-prompt", metavar="TEXT", help="what --text-guidance leads away from (default: the model's own)")
    sub.add_argument("--no-loudness", action="store_true", help="do not normalize the sound to -23 LUFS before the audio encoder")
    sub.add_argument(
        "--whole-audio", action="store_true", help="encode the whole recording at once instead of the last 8 s (for minutes, not hours)"
    )
    sub.add_argument("--audio-track", type=int, metavar="N", help="sound track of the first sound file, from 1 (default: as marked)")
    sub.add_argument("--second-audio", type=Path, help="the second speaker's speech; may be shorter or longer than the first")
    sub.add_argument("--split-channels", action="store_true", help="the sound file's two channels are two speakers; needs two masks")
    sub.add_argument(
        "--masks",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="a picture for each speaker, white where the speaker is; with one mask, nobody else talks",
    )
    sub.add_argument(
        "--crop",
        default="auto",
        metavar="WHERE",
        help="part of the picture to keep: center, top, or X,Y, the center of the crop as fractions of width and height; face: a square "
        "around the face; auto: face where it would be small, else center (default: auto)",
    )
    sub.add_argument("--paste-back", action="store_true", help="find the face, and put it back into the whole picture as it talks")
    sub.add_argument("--any-size", action="store_true", help="allow a --size that the model was not trained for; the face may not talk")
    add_marks(sub)
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
    sub.add_argument("--resume", action="store_true", help="continue a run of this output that was killed; the settings must be the same")


def add_marks(sub: argparse.ArgumentParser) -> None:
    """The arguments of MarkOptions."""
    sub.add_argument("--no-credentials", action="store_true", help="write no Content Credentials (C2PA) into the video")
    sub.add_argument(
        "--sign-cert",
        type=Path,
        metavar="FILE",
        help="certificate or chain that signs the Content Credentials, PEM (default: LIVETALK_SIGN_CERT, else one made here once)",
    )
    sub.add_argument("--sign-key", type=Path, metavar="FILE", help="its key, PEM, unencrypted (default: LIVETALK_SIGN_KEY)")
    sub.add_argument("--sign-prompt", action="store_true", help="write the prompt into the Content Credentials too")
    sub.add_argument("--watermark", action="store_true", help="put an invisible watermark with a random id into the frames")


def engine_fields(*, pool: bool) -> list[Field]:
    """The engine options of a command; without `pool`, those for an engine in this process. Each command has its own `size`."""
    left_out = {"size"} | (set() if pool else {"gpus", "workers"})
    return [field for field in fields(EngineOptions) if field.name not in left_out]


def add_engine(sub: argparse.ArgumentParser, asked: Iterable[Field]) -> None:
    """Add an argument for each of these fields, which were made by `option`."""
    for field in asked:
        option = option_of(field)
        names = [f"--{name.replace('_', '-')}" for name in (field.name, *option.aliases)]
        if option.kind is bool:
            sub.add_argument(*names, action="store_true", help=option.help)
        else:
            read = read_count if option.kind is int else option.kind
            how = {"type": read, "default": field.default, "metavar": option.metavar, "nargs": "+" if option.many else None}
            how |= {"action": "extend", "default": list(field.default)} if option.many else {}
            told = f" (default: {field.default})" if field.default not in (None, ()) else ""
            sub.add_argument(*names, help=option.help + told, **how)


def read_count(text: str) -> int | str:
    """An integer if the text is one; EngineOptions checks other words."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def engine_options(given: argparse.Namespace) -> EngineOptions:
    """The EngineOptions of the arguments. ValueError for a bad value."""
    found = {field.name: vars(given)[field.name] for field in fields(EngineOptions) if field.name in given}
    return EngineOptions(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})
