"""The small model from nothing: people drawn, the VAE's encoder worked out, the DiT taught to hear, to draw and to be quick.

Last of all the VAE's decoder learns, with what that DiT makes: until then latents become pictures by a linear map. Each part goes on where
it was stopped, so the command that was stopped is the command that goes on.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.models import weights
from livetalk_core.models.audio import normalize_loudness
from livetalk_core.models.weightless import MelEncoder, NoText, ThumbnailEncoder, no_tokens
from livetalk_core.presets import nano
from livetalk_core.train.audio_pretraining import Lesson, examine, teach, write_speech
from livetalk_core.train.errors import write_errors
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import FilmSet, film_clips
from livetalk_core.train.net import fresh_state, net_state
from livetalk_core.train.prepare import prepare
from livetalk_core.train.presets import dmd_nano, sft_nano, vae_nano
from livetalk_core.train.run import DIT_FILE, VAE_FILE, Job, fresh_vae, train
from livetalk_core.train.sample import Encoders, to_signed
from livetalk_core.train.shards import open_shards
from livetalk_core.train.shifts import shift_kernels
from livetalk_core.train.small_net import SmallVelocityNet
from livetalk_core.train.synthetic import AROUND_FRAMES, CAPTION, draw_film
from livetalk_core.types import StreamSettings

FILMS = ((300, 3), (2700, 1))
"""How many films of how many chunks each. Many people, since what a small model learns from a few does not hold for others."""
SIZE = 128
LESSON, HELD_OUT_SCRIPTS = Lesson(), 12
PICTURES = 150
"""That show how latents move, at least."""
MISTAKEN = 800
"""Films, at least, whose chunks the decoder learns to bring back."""


def train_nano(out: Path, device: str = "auto") -> Path | None:
    """All parts in turn; returns the folder of the model, or None if a signal stopped one, all saved."""
    for name, run in parts_of(out, device):
        tell(f"train nano: {name}")
        if run() is None:
            return None
    return put_together(out / "vae" / VAE_FILE, out / "dmd" / DIT_FILE, out / "nano")


def parts_of(out: Path, device: str) -> list[tuple[str, Callable[[], object]]]:
    """The parts, by name. Each finds what it has already done."""
    films, data, errors, first, ears = out / "films", out / "data", out / "errors", out / "first" / VAE_FILE, out / "first" / DIT_FILE
    sft, dmd, vae = (out / name for name in ("sft", "dmd", "vae"))
    stage_1, stage_2, decoding = (partial(Job, recipe=make(), device=device) for make in (sft_nano, dmd_nano, vae_nano))
    return [
        ("films", lambda: draw_films(films, FILMS)),
        ("first VAE", lambda: make_first_vae(FilmSet(films), first)),
        ("data", lambda: encode_films(FilmSet(films), first, data)),
        ("first DiT", lambda: make_first_dit(FilmSet(films), first, ears)),
        ("stage 1", lambda: train(stage_1(out=sft, data=data, dit=(ears,), vae=first))),
        ("stage 2", lambda: train(stage_2(out=dmd, data=data, dit=(sft / DIT_FILE,), vae=first))),
        ("errors", lambda: collect_errors(dmd / DIT_FILE, data, errors)),
        ("VAE", lambda: train(decoding(out=vae, data=films, vae=first, errors=errors))),
    ]


def collect_errors(dit: Path, data: Path, folder: Path) -> int:
    """What the trained DiT gets wrong of samples from the first to the last, as it is served."""
    preset, net = nano(), SmallVelocityNet(nano().dit)
    net.load_state_dict(net_state({name: tensor.float() for name, tensor in weights.read_tensors([dit]).items()}))
    schedule = preset.settled(StreamSettings(steps=preset.steps))
    return write_errors(net, open_shards(data, preset.plan), folder, schedule, MISTAKEN)


def draw_films(folder: Path, films: tuple[tuple[int, int], ...]) -> int:
    """Draw what is missing of so many films of so many chunks, on all cores; returns how many there are."""
    wanted = [chunks for count, chunks in films for _ in range(count)]
    missing = [(seed, chunks) for seed, chunks in enumerate(wanted) if not film_path(folder, seed).exists()]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(store_film, folder, seed, chunks) for seed, chunks in missing]:
            done.result()
    return len(wanted)


def store_film(folder: Path, seed: int, chunks: int) -> None:
    torch.set_num_threads(1)
    write_tensors(draw_film(seed, 28 * chunks + 5, SIZE), film_path(folder, seed))


def film_path(folder: Path, seed: int) -> Path:
    return folder / f"talker-train-{seed:05d}.safetensors"


def make_first_vae(films: FilmSet, path: Path) -> Path:
    """The encoder, final, and a decoder that has learned nothing yet."""
    if not path.exists():
        write_tensors(fresh_vae(vae_nano(), films), path)
    return path


def make_first_dit(films: FilmSet, vae: Path, path: Path) -> Path:
    """A DiT that has learned nothing yet but to hear, and how a picture moves."""
    if not path.exists():
        config, plan = nano().dit, nano().plan(SIZE, SIZE)
        listener = teach(config, plan, write_speech(range(LESSON.scripts), nano().audio), LESSON, tell)
        ears = {f"audio_proj.{name}": tensor for name, tensor in listener.proj.state_dict().items()}
        found = examine(listener, plan, write_speech(range(HELD_OUT_SCRIPTS), nano().audio, "heldout"))
        tell("hearing: on held-out voices, r of " + ", ".join(f"{name} {r:.3f}" for name, r in found.items()))
        write_tensors(fresh_state(config, LESSON.seed) | ears | learn_shifts(films, vae), path)
    return path


def learn_shifts(films: FilmSet, vae: Path) -> dict[str, Tensor]:
    """The kernels that move a picture, from the films' references."""
    codec = weights.load_vae(weights.read_tensors([vae]), dtype=torch.float32)
    chosen = range(0, len(films), max(1, len(films) // PICTURES))
    return shift_kernels(codec, (to_signed(films[i].read("reference")[None])[:, 0] for i in chosen), nano().dit.shifts)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def encode_films(films: FilmSet, vae: Path, data: Path) -> int:
    """Shards of all films, latents by the linear encoder, which is final before it is trained."""
    preset, cpu = nano(), torch.device("cpu")
    hear, read, see = MelEncoder(preset.audio), NoText(preset.text), ThumbnailEncoder(preset.image)
    encoders = Encoders(
        vae=weights.load_vae(weights.read_tensors([vae]), dtype=torch.float32),
        audio=lambda samples_N: hear(normalize_loudness(samples_N)),
        text=lambda prompt: read(*no_tokens(prompt)),
        image=see,
        plan=preset.plan,
        dit=preset.dit,
    )
    return prepare(film_clips(films, CAPTION, AROUND_FRAMES), encoders, data, cpu, source="talker")


def put_together(vae: Path, dit: Path, folder: Path) -> Path:
    """A model folder that generate, serve and the node pack take, of a VAE's file and of a DiT's with its config.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, name in ((vae, VAE_FILE), (dit, DIT_FILE), (dit.with_name("config.json"), "config.json")):
        shutil.copyfile(source, folder / name)
    return folder
