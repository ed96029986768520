"""Assembles a training run: networks, data, stage, trainer and export."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from livetalk_core.models import weights
from livetalk_core.models.enlarger import Enlarger, EnlargerConfig
from livetalk_core.models.small_dit import build_dit
from livetalk_core.parallel.train import is_first, own_device, shard, training_world
from livetalk_core.train.config import DMD, SFT, Enlarging, Recipe, SmallSFT, Tokenizer
from livetalk_core.train.dmd import DistillStage
from livetalk_core.train.draws import Draws
from livetalk_core.train.enlarging import EnlargedFilmSet, EnlargeStage
from livetalk_core.train.export import export_net, gather_net, write_tensors
from livetalk_core.train.films import FilmSet
from livetalk_core.train.learner import Learner
from livetalk_core.train.net import blocks_of, fresh_state, net_state
from livetalk_core.train.sft import AdaptStage
from livetalk_core.train.shards import ShardSet, open_shards, read_null_text
from livetalk_core.train.small_net import make_net
from livetalk_core.train.small_sft import SmallAdaptStage
from livetalk_core.train.tokenizer import Autoencoder, TokenizerStage, autoencoder_state, first_vae_state
from livetalk_core.train.trainer import Trainer
from livetalk_core.train.validation import averaged, show_enlarged, show_reconstruction, show_talk
from livetalk_core.types import StreamSettings, VideoVAE

DIT_FILE, VAE_FILE, ENLARGER_FILE = "diffusion_pytorch_model.safetensors", "vae.safetensors", "enlarger.safetensors"
TEACHER_STEPS = 20
"""Denoising steps for a validation video in Stage 1."""
FIRST_FILMS = 200
"""The VAE's encoder is computed from this many films, up to twice as many."""
FIRST_FRAMES = 13
"""Frames used of each of these films."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe and its files. Without `dit`, Stage 1 starts from random weights; `teacher` defaults to `dit`."""

    recipe: Recipe
    out: Path
    data: Path | None = None
    dit: tuple[Path, ...] = ()
    teacher: tuple[Path, ...] = ()
    vae: Path | None = None
    errors: Path | None = None
    """Only for a VAE: folder of a DiT's errors on the films."""
    small: Path | None = None
    """Only for an enlarger: folder of the small frames."""
    device: str = "auto"


def train(job: Job) -> Path | None:
    """Run a job, resuming from its newest checkpoint. Returns the exported file, or None if a signal stopped the saved run."""
    device = own_device(job.device)
    with training_world(device):
        trainer, export = BUILD[type(job.recipe.stage)](job, device)
        return export() if trainer.run() else None


def build_sft(job: Job, device: torch.device) -> tuple[Trainer, Callable[[], Path]]:
    recipe = job.recipe
    data = open_data(job, 1)
    learner = Learner(shard_net(recipe, job.dit, device), recipe.stage.optim, recipe.run.ema_decay, recipe.run.ema_start)
    stage = ADAPT[type(recipe.stage)](recipe.stage, learner, read_null_text(job.data).to(device))
    show = validation_video(job, learner, load_vae(job, device), data, TEACHER_STEPS, device)
    return Trainer(recipe, stage, data, data.buckets, job.out, device, show), lambda: export_dit(job, learner)


def build_dmd(job: Job, device: torch.device) -> tuple[Trainer, Callable[[], Path]]:
    recipe, config = job.recipe, job.recipe.stage
    if not job.dit:
        raise ValueError(f"{recipe.name} distills a Stage 1 model; name its file with --dit")
    data, vae = open_data(job, config.chunks), load_vae(job, device)
    generator = Learner(shard_net(recipe, job.dit, device), config.generator, recipe.run.ema_decay, recipe.run.ema_start)
    critic = Learner(shard_net(recipe, job.teacher or job.dit, device), config.critic)
    teacher = shard_net(recipe, job.teacher or job.dit, device, frozen=True)
    stage = DistillStage(config, generator, critic, teacher, vae, read_null_text(job.data).to(device))
    show = validation_video(job, generator, vae, data, config.steps, device)
    return Trainer(recipe, stage, data, data.buckets, job.out, device, show), lambda: export_dit(job, generator)


def build_tokenizer(job: Job, device: torch.device) -> tuple[Trainer, Callable[[], Path]]:
    recipe, vae = job.recipe, job.recipe.model.vae
    if job.data is None:
        raise ValueError(f"{recipe.name} needs films; draw some with livetalk train nano and name their folder with --data")
    if recipe.stage.errors and job.errors is None:
        raise ValueError(f"{recipe.name} learns from a DiT's errors; name their folder with --errors (livetalk train nano makes them)")
    data = FilmSet(job.data, job.errors)
    state = weights.read_tensors([job.vae]) if job.vae else fresh_vae(recipe, data)
    net = shard(lambda: Autoencoder(vae), on_rank_0(autoencoder_state(state)), no_units, device, compute=dtype_of(recipe))
    learner = Learner(net, recipe.stage.optim, recipe.run.ema_decay, recipe.run.ema_start)

    def show(step: int) -> None:
        show_reconstruction(learner, data[0], device, job.out / "validation" / f"step-{step:08d}.mp4")

    trainer = Trainer(recipe, TokenizerStage(recipe.stage, learner), data, data.buckets, job.out, device, show)
    return trainer, lambda: export_small(learner, "vae.", job.out / VAE_FILE)


def fresh_vae(recipe: Recipe, films: FilmSet) -> dict[str, Tensor]:
    """Initial weights of a small model's VAE; the encoder's are final."""
    size = films[0].read("mouth").shape[0]
    chosen = range(0, len(films), max(1, len(films) // FIRST_FILMS))
    clips = [films[i].cut(Draws.of(recipe.run.seed, "first", i), min(FIRST_FRAMES, recipe.stage.frames), size) for i in chosen]
    return first_vae_state(recipe.model.vae, clips, recipe.run.seed)


def build_enlarger(job: Job, device: torch.device) -> tuple[Trainer, Callable[[], Path]]:
    recipe = job.recipe
    if job.data is None or job.small is None:
        raise ValueError(
            f"{recipe.name} needs films and their small frames (livetalk train nano makes them); name them with --data and --small"
        )
    data = EnlargedFilmSet(job.data, job.small)
    net = shard(lambda: Enlarger(EnlargerConfig()), on_rank_0(fresh_enlarger(recipe.run.seed)), no_units, device, compute=dtype_of(recipe))
    learner = Learner(net, recipe.stage.optim, recipe.run.ema_decay, recipe.run.ema_start)

    show = partial(show_enlarged, learner, data[0], device, job.out / "validation")
    trainer = Trainer(recipe, EnlargeStage(recipe.stage, learner), data, data.buckets, job.out, device, show)
    return trainer, lambda: export_small(learner, "", job.out / ENLARGER_FILE)


def fresh_enlarger(seed: int) -> dict[str, Tensor]:
    """Initial weights; the same seed gives the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Enlarger(EnlargerConfig()).state_dict()


ADAPT = {SFT: AdaptStage, SmallSFT: SmallAdaptStage}
BUILD = {SFT: build_sft, SmallSFT: build_sft, DMD: build_dmd, Tokenizer: build_tokenizer, Enlarging: build_enlarger}


def shard_net(recipe: Recipe, files: tuple[Path, ...], device: torch.device, *, frozen: bool = False) -> nn.Module:
    """The recipe's DiT, sharded; from files, or initialized with the recipe's seed. ValueError for files of another model."""
    config = recipe.model.dit
    state = weights.read_tensors(files) if files else fresh_state(config, recipe.run.seed)
    with torch.device("meta"):
        weights.check_fit(build_dit(config), state, f"the DiT of {recipe.model.name}")
    net = shard(
        lambda: make_net(config), on_rank_0(net_state(state)), blocks_of, device, compute=dtype_of(recipe),
        master=dtype_of(recipe) if frozen else torch.float32, checkpoint_activations=recipe.run.checkpoint_activations and not frozen,
    )  # fmt: skip
    if recipe.run.compile:
        net.compile(dynamic=False)
    return net.requires_grad_(False) if frozen else net


def load_vae(job: Job, device: torch.device) -> VideoVAE:
    """The frozen VAE, whole on every process."""
    if job.vae is None:
        raise ValueError(f"{job.recipe.name} needs the VAE with which its data was encoded; name its file with --vae")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return weights.load_vae(weights.read_tensors([job.vae]), dtype=dtype, device=device)


def open_data(job: Job, chunks: int) -> ShardSet:
    if job.data is None:
        raise ValueError(f"{job.recipe.name} needs encoded clips; make them with livetalk prepare and name their folder with --data")
    return open_shards(job.data, job.recipe.model.plan, chunks)


def validation_video(job: Job, learner: Learner, vae: VideoVAE, data: ShardSet, steps: int, device: torch.device) -> Callable[[int], None]:
    """A function that makes a video from the first sample of the data."""
    run = job.recipe.run
    settings = job.recipe.model.settled(StreamSettings(steps=steps, shift=job.recipe.stage.shift))

    def show(step: int) -> None:
        path = job.out / "validation" / f"step-{step:08d}.mp4"
        show_talk(learner, vae, data[0].to(device), run.validate_chunks, settings, path)

    return show


def export_dit(job: Job, learner: Learner) -> Path:
    """Write the EMA weights if there are any, else the last weights."""
    path = job.out / DIT_FILE
    with averaged(learner):
        dtype = torch.float32 if job.recipe.run.dtype == "float32" else torch.bfloat16
        export_net(learner.net, "dit.", path, dtype, job.recipe.model)
    return path


def export_small(learner: Learner, prefix: str, path: Path) -> Path:
    """Write the small model's VAE or enlarger in bfloat16: the EMA weights if there are any. `prefix` of the names is left out."""
    with averaged(learner):
        whole = gather_net(learner.net, prefix)
    if is_first():
        write_tensors({name: tensor.bfloat16() for name, tensor in whole.items()}, path)
    return path


def on_rank_0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the first process, nothing on the others: sharding broadcasts them."""
    return state if is_first() else {}


def dtype_of(recipe: Recipe) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[recipe.run.dtype]


def no_units(module: nn.Module) -> Iterable[nn.Module]:
    """No units: the network is small enough to be gathered as a whole."""
    return ()
