"""The words of the command line: what can be asked for, with ranges and defaults."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

BAD_INPUT = 2
ASSETS = Path(__file__).parents[1] / "assets"


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_generate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("picture", nargs="?", type=Path, default=ASSETS / "portrait.png", help="portrait, any format (default: a sample)")
    sub.add_argument("audio", nargs="?", type=Path, default=ASSETS / "speech.flac", help="speech, sound or video file (default: a sample)")
    sub.add_argument("output", nargs="?", type=Path, default=Path("talking.mp4"), help="MP4 to write (default: talking.mp4)")
    add_model(sub)
    add_pool(sub)
    sub.add_argument("--prompt", help="what the picture shows (default: the published prompt)")
    sub.add_argument(
        "--size", default="auto", metavar="WxH", help="pixels, multiples of 16; or a bucket: 64, 128, 416, 627, 960 (default: auto)"
    )
    sub.add_argument("--seed", type=int, default=9999, help="0 or more; the same seed gives the same video (default: 9999)")
    sub.add_argument(
        "--steps",
        type=int,
        default=4,
        help="denoising steps a chunk; 3 or 2 are faster and change the result, which is measured as for --fast (default: 4)",
    )
    sub.add_argument("--shift", type=float, help="time shift of the schedule, above 0 (default: the model's own)")
    sub.add_argument("--last-noise", type=float, help="0 to 1: how much noise is added before the last step (default: the model's own)")
    sub.add_argument("--color-strength", type=float, default=1.0, help="0 to 1: how far colors are held to the picture (default: 1)")
    sub.add_argument("--no-loudness", action="store_true", help="do not bring the sound to -23 LUFS before the audio encoder")
    sub.add_argument(
        "--whole-audio", action="store_true", help="hear the whole recording at once, past and future (for minutes, not hours)"
    )
    sub.add_argument("--audio-track", type=int, metavar="N", help="sound track of the first sound file, from 1 (default: as marked)")
    sub.add_argument("--second-audio", type=Path, help="the second speaker's sound, as long as the first's or not")
    sub.add_argument("--split-channels", action="store_true", help="the sound file's two channels are two speakers; needs two masks")
    sub.add_argument(
        "--masks",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="pictures, white where each speaker is; with one, the others keep still",
    )
    sub.add_argument(
        "--crop",
        default="center",
        metavar="WHERE",
        help="what stays of a tall or wide picture: center, top, or X,Y, the "
        "point around which it is cut, in fractions of width and height (default: center)",
    )
    sub.add_argument("--any-size", action="store_true", help="take a --size that the model was not made for: its face may not talk")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
    sub.add_argument("--resume", action="store_true", help="go on where a run of this output was killed; the settings must be the same")


def add_model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", default="nano", help="nano (in the package), tiny (random weights), or a model's folder (default: nano)")
    sub.add_argument("--dit", type=Path, nargs="+", metavar="FILE", help="DiT files; a Wan 2.1 I2V base may be followed by its audio patch")
    for part, text in (("vae", "VAE"), ("text", "umT5 encoder"), ("image", "CLIP vision encoder"), ("audio-encoder", "wav2vec2 encoder")):
        sub.add_argument(f"--{part}", type=Path, metavar="FILE", help=f"{text} file instead of the folder's")
    sub.add_argument("--tokenizer", type=Path, metavar="DIR", help="folder of umT5's tokenizer.json instead of the model folder's")
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    sub.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="precision (default: bfloat16 on cuda)")
    sub.add_argument(
        "--memory",
        default="auto",
        help="where the DiT's weights are kept: resident, offload (on the host, brought block by block), sharded (a part on each of "
        "several GPUs), or auto: resident where they fit, else offload (default: auto)",
    )
    sub.add_argument(
        "--attention",
        default="auto",
        help="attention kernel: auto, the fastest on this GPU; sdpa, cudnn, flash, efficient (torch's own), flash2, flash3; or sage, "
        "8-bit, which changes the result and is measured (default: auto)",
    )
    sub.add_argument("--compile", action="store_true", help="compile with torch.compile: faster chunks after a slow first one")
    sub.add_argument("--graphs", action="store_true", help="record steps and decodes as CUDA graphs: fewer launches, more memory (one GPU)")
    sub.add_argument(
        "--fast",
        default="none",
        help="savings that change the result: none, or fp8, products in 8 bits (default: none). Each option that changes the result is "
        "measured against the exact way on the first chunk, which takes longer by one more chunk, and one for each",
    )
    sub.add_argument(
        "--decoder",
        type=Path,
        metavar="FILE",
        help="for drafts: a tiny decoder (taew2_1, .pth or .safetensors) in place of the Wan 2.1 VAE's, which changes the result and is "
        "measured as for --fast; motion frames are its own too, encoded as ever (one process)",
    )
    sub.set_defaults(warm=False)


def add_pool(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--gpus", default="1", metavar="N", help="GPUs that make one video together, or auto (default: 1, without workers)")
    sub.add_argument("--workers", "--pool", metavar="N", help="processes on the CPU in place of GPUs")


def add_serve(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    add_pool(sub)
    sub.set_defaults(warm=True)
    sub.add_argument("--size", default="auto", metavar="WxH", help="picture size when a client names none (default: auto)")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    sub.add_argument("--port", type=int, default=8765, help="port to listen at, 0 for any (default: 8765)")
    sub.add_argument("--pools", type=int, default=1, help="pools with that many workers each (default: 1)")
    sub.add_argument("--sessions", type=int, default=8, help="streams at once, over all pools (default: 8)")
    sub.add_argument("--origin", action="append", default=[], help="web page that may connect, as https://name (default: this server's)")
