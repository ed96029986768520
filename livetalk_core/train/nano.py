"""Trains the small model from nothing: films, VAE encoder, audio pretraining, Stages 1 and 2, photographs, VAE decoder, and the enlarger.

The model first learns from drawn people, then from drawn people and rendered ones, who stand for photographs. The decoder learns after
the DiT, since it trains on its errors; until then latents become pictures by a linear map. The enlarger learns last, from what both make.
The same command resumes an interrupted run.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.models import weights
from livetalk_core.models.audio import normalize_loudness
from livetalk_core.models.enlarger import TIMES
from livetalk_core.models.weightless import MelEncoder, NoText, ThumbnailEncoder, no_tokens
from livetalk_core.talker.heads.stills import still_path, store_still
from livetalk_core.talker.heads.wheel import load_anatomy
from livetalk_core.talker.photo.fit import fit_path, pictures_of
from livetalk_core.train.audio_pretraining import PretrainSettings, make_speech, measure_correlation, pretrain
from livetalk_core.train.enlarging import halve_films, write_small_frames
from livetalk_core.train.errors import write_errors
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import AROUND_FRAMES, FilmSet, film_clips
from livetalk_core.train.net import fresh_state, net_state
from livetalk_core.train.photos import photo_film_path, store_photo_film
from livetalk_core.train.prepare import prepare
from livetalk_core.train.presets import dmd_nano, enlarger_nano, nano, sft_nano, sft_photos, vae_nano
from livetalk_core.train.run import DIT_FILE, ENLARGER_FILE, VAE_FILE, Job, fresh_vae, train
from livetalk_core.train.sample import Encoders, to_signed
from livetalk_core.train.shards import open_shards
from livetalk_core.train.shifts import shift_kernels
from livetalk_core.train.small_net import SmallVelocityNet
from livetalk_core.train.synthetic import CAPTION, draw_film
from livetalk_core.types import StreamSettings

FILMS = ((300, 3), (2700, 1))
"""(number of films, chunks in each). Many people are needed: a small model trained on few does not generalize to others."""
PEOPLE, PHOTO_FILMS = 336, 4000
"""Rendered people, and the clips made of their pictures."""
LARGE_FILMS = (1600, 400)
"""Clips at twice the size from which the enlarger learns: of photographs, and of drawn people."""
SIZE = 128
PRETRAINING, HELD_OUT_SCRIPTS = PretrainSettings(), 12
SHIFT_PICTURES = 150
"""Least number of pictures from which the shift kernels are computed."""
ERROR_FILMS = 1000
"""Least number of films with recorded DiT errors for the decoder's training."""


def train_nano(out: Path, device: str = "auto", photographs: Path | None = None) -> Path | None:
    """Run all parts in order; returns the model's folder, or None if a signal stopped the run, which is then saved.

    `photographs` is a folder of one's own pictures, fitted by talker/photo/fit.py, that join the rendered people. ImportError at once if a
    package is missing that a later part needs, ValueError if a photograph has no fit.
    """
    check_heads()
    given = fitted_pictures(photographs) if photographs else []
    for name, run in parts_of(out, device, given):
        tell(f"train nano: {name}")
        if run() is None:
            return None
    return put_together(out / "vae" / VAE_FILE, out / "photos" / DIT_FILE, out / "nano", out / "enlarger" / ENLARGER_FILE)


def check_heads() -> None:
    """ImportError with the way out where rendered people, or the clips made of them, need a package that is missing."""
    missing = [name for name in ("cv2", "scipy") if find_spec(name) is None]
    if missing:
        raise ImportError(f"train nano needs {' and '.join(missing)}, not installed here; install the train extra")
    load_anatomy()


def fitted_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder. ValueError with the command to run where one is not fitted."""
    found = pictures_of(folder) if folder.is_dir() else []
    if not found or any(not fit_path(path).exists() for path in found):
        wrong = "has pictures without a fit" if found else "holds no pictures"
        raise ValueError(f"{folder} {wrong}; add pictures and run: python -m livetalk_core.talker.photo.fit {folder}")
    return found


def parts_of(out: Path, device: str, photographs: Sequence[Path] = ()) -> list[tuple[str, Callable[[], object]]]:
    """The parts by name. Each skips work that is already done."""
    films, data, errors = out / "films", out / "data", out / "errors"
    people, photo_films, all_films, photo_data = (out / name for name in ("people", "photo_films", "all_films", "photo_data"))
    first_vae, first_dit = out / "first" / VAE_FILE, out / "first" / DIT_FILE
    large, halved, halved_data, small = (out / name for name in ("large_films", "halved_films", "halved_data", "small_frames"))
    sft, dmd, photos, vae, enlarger = (out / name for name in ("sft", "dmd", "photos", "vae", "enlarger"))
    recipes = (sft_nano, dmd_nano, sft_photos, vae_nano, enlarger_nano)
    stage_1, stage_2, go_on, decoding, enlarging = (partial(Job, recipe=make(), device=device) for make in recipes)
    pictures = lambda: [*pictures_of(people), *photographs]  # noqa: E731
    return [
        ("films", lambda: draw_films(films, FILMS)),
        ("first VAE", lambda: make_first_vae(FilmSet(films), first_vae)),
        ("data", lambda: encode_films(FilmSet(films), first_vae, data)),
        ("first DiT", lambda: make_first_dit(FilmSet(films), first_vae, first_dit)),
        ("stage 1", lambda: train(stage_1(out=sft, data=data, dit=(first_dit,), vae=first_vae))),
        ("stage 2", lambda: train(stage_2(out=dmd, data=data, dit=(sft / DIT_FILE,), vae=first_vae))),
        ("people", lambda: draw_people(people, PEOPLE)),
        ("photo films", lambda: draw_photo_films(photo_films, pictures(), PHOTO_FILMS)),
        ("all films", lambda: link_films((films, photo_films), all_films)),
        ("photo data", lambda: encode_films(FilmSet(all_films), first_vae, photo_data, bend=True)),
        ("photographs", lambda: train(go_on(out=photos, data=photo_data, dit=(dmd / DIT_FILE,), vae=first_vae))),
        ("errors", lambda: collect_errors(photos / DIT_FILE, photo_data, errors)),
        ("VAE", lambda: train(decoding(out=vae, data=all_films, vae=first_vae, errors=errors))),
        ("large films", lambda: draw_large_films(large, pictures(), LARGE_FILMS)),
        ("halved films", lambda: halve_films(FilmSet(large), halved)),
        ("halved data", lambda: encode_films(FilmSet(halved), first_vae, halved_data)),
        ("small frames", lambda: make_small_frames(photos / DIT_FILE, vae / VAE_FILE, halved_data, small)),
        ("enlarger", lambda: train(enlarging(out=enlarger, data=large, small=small))),
    ]


def collect_errors(dit: Path, data: Path, folder: Path) -> int:
    """Record the trained DiT's errors on samples from all of the data, with the serving schedule."""
    return write_errors(trained_net(dit), open_shards(data, nano().plan), folder, schedule(), ERROR_FILMS)


def make_small_frames(dit: Path, vae: Path, data: Path, folder: Path) -> int:
    """What the trained DiT and VAE make of the halved films."""
    codec = weights.load_vae(weights.read_tensors([vae]), dtype=torch.float32)
    return write_small_frames(trained_net(dit), codec, open_shards(data, nano().plan), folder, schedule())


def trained_net(dit: Path) -> SmallVelocityNet:
    net = SmallVelocityNet(nano().dit)
    net.load_state_dict(net_state({name: tensor.float() for name, tensor in weights.read_tensors([dit]).items()}))
    return net


def schedule() -> StreamSettings:
    """The small model's, as it serves."""
    return nano().settled(StreamSettings(steps=nano().steps))


def draw_films(folder: Path, films: tuple[tuple[int, int], ...]) -> int:
    """Draw the missing films, on all cores; `films` is (number of films, chunks in each). Returns the number of films."""
    wanted = [chunks for count, chunks in films for _ in range(count)]
    on_all_cores([partial(store_film, folder, seed, chunks) for seed, chunks in enumerate(wanted) if not film_path(folder, seed).exists()])
    return len(wanted)


def draw_people(folder: Path, count: int) -> int:
    """Draw the missing pictures of rendered people, on all cores. Returns the number of people."""
    on_all_cores([partial(store_still, folder, seed) for seed in range(count) if not still_path(folder, seed).exists()])
    return count


def draw_photo_films(folder: Path, pictures: list[Path], count: int) -> int:
    """Make the missing clips of the pictures, on all cores. Returns the number of clips."""
    folder.mkdir(parents=True, exist_ok=True)
    on_all_cores(photo_film_works(folder, pictures, count))
    return count


def photo_film_works(folder: Path, pictures: list[Path], count: int, size: int = SIZE) -> list[Callable[[], None]]:
    """What makes each of the missing clips."""
    missing = (seed for seed in range(count) if not photo_film_path(folder, seed).exists())
    return [partial(store_photo_film, folder, pictures, seed, size) for seed in missing]


def draw_large_films(folder: Path, pictures: list[Path], counts: tuple[int, int]) -> int:
    """Make the missing clips at twice the size, on all cores: of pictures, and of drawn people. Returns the number of clips."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = (seed for seed in range(counts[1]) if not film_path(folder, seed).exists())
    drawn = [partial(store_film, folder, seed, 1, TIMES * SIZE) for seed in missing]
    on_all_cores([*photo_film_works(folder, pictures, counts[0], TIMES * SIZE), *drawn])
    return sum(counts)


def link_films(sources: Iterable[Path], folder: Path) -> int:
    """The films of several folders in one, without a copy where the disk can do so. Returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    films = [film for source in sources for film in FilmSet(source).paths]
    for film in films:
        if not (folder / film.name).exists():
            try:
                os.link(film, folder / film.name)
            except OSError:
                half = folder / f"{film.name}.tmp"
                shutil.copyfile(film, half)
                os.replace(half, folder / film.name)
    return len(films)


def on_all_cores(works: list[Callable[[], object]]) -> None:
    """Do each in some process."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(work) for work in works]:
            done.result()


def store_film(folder: Path, seed: int, chunks: int, size: int = SIZE) -> None:
    torch.set_num_threads(1)
    write_tensors(draw_film(seed, 28 * chunks + 5, size), film_path(folder, seed))


def film_path(folder: Path, seed: int) -> Path:
    return folder / f"talker-train-{seed:05d}.safetensors"


def make_first_vae(films: FilmSet, path: Path) -> Path:
    """A VAE with the final encoder and an untrained decoder."""
    if not path.exists():
        write_tensors(fresh_vae(vae_nano(), films), path)
    return path


def make_first_dit(films: FilmSet, vae: Path, path: Path) -> Path:
    """A fresh DiT with the pretrained audio projection and the computed shift kernels."""
    if not path.exists():
        config, plan = nano().dit, nano().plan(SIZE, SIZE)
        predictor = pretrain(config, plan, make_speech(range(PRETRAINING.scripts), nano().audio), PRETRAINING, tell)
        projection = {f"audio_proj.{name}": tensor for name, tensor in predictor.proj.state_dict().items()}
        found = measure_correlation(predictor, plan, make_speech(range(HELD_OUT_SCRIPTS), nano().audio, "heldout"))
        tell("audio pretraining: correlation on held-out voices: " + ", ".join(f"{name} {r:.3f}" for name, r in found.items()))
        write_tensors(fresh_state(config, PRETRAINING.seed) | projection | learn_shifts(films, vae), path)
    return path


def learn_shifts(films: FilmSet, vae: Path) -> dict[str, Tensor]:
    """Compute the shift kernels from the reference pictures of the films."""
    codec = weights.load_vae(weights.read_tensors([vae]), dtype=torch.float32)
    chosen = range(0, len(films), max(1, len(films) // SHIFT_PICTURES))
    return shift_kernels(codec, (to_signed(films[i].read("reference")[None])[:, 0] for i in chosen), nano().dit.shifts)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def encode_films(films: FilmSet, vae: Path, data: Path, bend: bool = False) -> int:
    """Write shards of all films, with bent motion latents if `bend`.

    The VAE's encoder is already final, since it is computed and not trained.
    """
    preset, cpu = nano(), torch.device("cpu")
    hear, read, see = MelEncoder(preset.audio), NoText(preset.text), ThumbnailEncoder(preset.image)
    encoders = Encoders(
        vae=weights.load_vae(weights.read_tensors([vae]), dtype=torch.float32),
        audio=lambda samples_N: hear(normalize_loudness(samples_N)),
        text=lambda prompt: read(*no_tokens(prompt)),
        image=see,
        plan=preset.plan,
        dit=preset.dit,
        bend=bend,
    )
    return prepare(film_clips(films, CAPTION, AROUND_FRAMES), encoders, data, cpu, source="talker")


def put_together(vae: Path, dit: Path, folder: Path, enlarger: Path | None = None) -> Path:
    """Copy a VAE, a DiT with its config.json, and an enlarger into a model folder for generate, serve and the node pack. Without an
    enlarger the model makes small pictures only."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, name in ((vae, VAE_FILE), (dit, DIT_FILE), (dit.with_name("config.json"), "config.json"), (enlarger, ENLARGER_FILE)):
        if source is not None:
            shutil.copyfile(source, folder / name)
    return folder
