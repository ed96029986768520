"""Toy networks, clips and recipes for the training tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from livetalk_core.models.patch_vae import PatchVAE, PatchVAEConfig
from livetalk_core.models.small_dit import SmallDiTConfig
from livetalk_core.models.vae import CausalVAE
from livetalk_core.parallel.train import shard
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import Preset, tiny
from livetalk_core.train.config import DMD, SFT, Optim, Recipe, Run, SmallSFT
from livetalk_core.train.draws import Draws
from livetalk_core.train.export import write_tensors
from livetalk_core.train.net import VelocityNet, blocks_of, fresh_state, net_state
from livetalk_core.train.run import Job, no_units
from livetalk_core.train.sample import Sample, decode_tensors
from livetalk_core.train.shards import NULL_KEY, ShardWriter
from livetalk_core.train.small_net import make_net
from livetalk_core.train.tokenizer import Autoencoder, autoencoder_state

CPU = torch.device("cpu")
SMALL_DIT = replace(tiny().dit, dim=32, ffn_dim=48, num_heads=2, text_len=6)
SMALL_VAE = PatchVAEConfig(z_dim=6, width=12, blocks=1, fine_width=8, fine_blocks=1)


def toy_preset() -> Preset:
    return replace(tiny(), dit=SMALL_DIT)


def toy_plan(size: int = 32) -> StreamPlan:
    return toy_preset().plan(size, size)


def toy_tensors(seed: int = 0, chunks: int = 1, size: int = 32, rows: int = 4) -> dict[str, Tensor]:
    """A stored sample of noise, in the shapes and types that `encode_clip` gives."""
    plan, g = toy_plan(size), torch.Generator().manual_seed(seed)
    frames = plan.motion_frames + chunks * plan.new_frames
    return {
        "latents": torch.randn(chunks, *plan.latent_shape, generator=g).bfloat16(),
        "reference": torch.randn(plan.latent_shape, generator=g).bfloat16(),
        "pixels": torch.randint(0, 256, (3, size, size), generator=g, dtype=torch.uint8),
        "text": torch.randn(rows, SMALL_DIT.text_dim, generator=g).bfloat16(),
        "image": torch.randn(257, SMALL_DIT.image_dim, generator=g).bfloat16(),
        "features": torch.randn(frames + 4, 3, 16, generator=g).bfloat16(),
        "sound": torch.randint(-1000, 1000, (frames * 640,), generator=g, dtype=torch.int16),
        "mouth": (torch.rand(plan.latent_height, plan.latent_width, generator=g) < 0.3).to(torch.uint8),
    }


def toy_sample(seed: int = 0, chunks: int = 1, size: int = 32, rows: int = 4) -> Sample:
    return decode_tensors(f"toy-{seed}", toy_tensors(seed, chunks, size, rows), toy_plan(size))


def toy_state(seed: int = 0) -> dict[str, Tensor]:
    """A DiT whose head does not say zero, so that every weight has a gradient."""
    state = fresh_state(SMALL_DIT, seed)
    state["head.head.weight"] = 0.1 * torch.randn(state["head.head.weight"].shape, generator=torch.Generator().manual_seed(seed))
    return state


def toy_net(seed: int = 0) -> VelocityNet:
    """Whole, in no process group."""
    net = VelocityNet(SMALL_DIT)
    net.load_state_dict(net_state(toy_state(seed)))
    return net


def sharded_net(seed: int = 0, **how) -> nn.Module:
    """The same, sharded over the world that there is."""
    return shard(lambda: VelocityNet(SMALL_DIT), net_state(toy_state(seed)), blocks_of, CPU, **how)


def sharded_small_net(seed: int = 0) -> nn.Module:
    """Of the small model's kind, which moves its picture."""
    config = SmallDiTConfig(**vars(SMALL_DIT), predicts="change", shifts=2)
    return shard(lambda: make_net(config), net_state(fresh_state(config, seed)), blocks_of, CPU)


def toy_vae_state() -> dict[str, Tensor]:
    """A small VAE's weights under Autoencoder's names, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return autoencoder_state(PatchVAE(SMALL_VAE).state_dict())


def sharded_vae() -> nn.Module:
    """The same, sharded over the world that there is."""
    return shard(lambda: Autoencoder(SMALL_VAE), toy_vae_state(), no_units, CPU)


def pairs(samples: list[Sample], *where: object) -> list[tuple[Sample, Draws]]:
    return [(sample, Draws.of("toy", *where, i)) for i, sample in enumerate(samples)]


def toy_sft(**changes) -> SFT:
    return replace(SFT(optim=Optim(lr=1e-3)), **changes)


def toy_small_sft(**changes) -> SmallSFT:
    return replace(SmallSFT(optim=Optim(lr=1e-3)), **changes)


def toy_dmd(**changes) -> DMD:
    config = DMD(generator=Optim(lr=1e-4, betas=(0.0, 0.999)), critic=Optim(lr=1e-4, betas=(0.0, 0.999)), chunks=3)
    return replace(config, **changes)


def toy_run(stage: SFT | DMD, steps: int, **changes) -> Recipe:
    return Recipe(name="toy", model=toy_preset(), run=replace(Run(steps=steps, save_every=1000), **changes), stage=stage)


def write_toy_shards(folder: Path, count: int = 6, chunks: int = 2) -> Path:
    with ShardWriter(folder) as writer:
        writer.add(NULL_KEY, {"text": torch.zeros(2, SMALL_DIT.text_dim)}, width=0, height=0, chunks=0, source="toy")
        for i in range(count):
            writer.add(f"toy-{i}", toy_tensors(i, chunks), width=32, height=32, chunks=chunks, source="toy")
    return folder


def toy_film(seed: int = 0, frames: int = 21, size: int = 48) -> dict[str, Tensor]:
    """A stored film of smooth waves that move, its mouth at the lower right, in the shapes and types that `draw_film` gives."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(size), torch.arange(size), indexing="ij")
    waves = torch.stack([torch.sin(0.2 * x + 0.1 * (c + 1) * y + 0.4 * t + seed) for c in range(3)], dim=-1)
    mouth = torch.zeros(size, size, dtype=torch.uint8)
    mouth[size // 2 : size // 2 + 8, size // 2 : -4] = 1
    return {
        "frames": ((waves + 1) * 127).to(torch.uint8),
        "sound": torch.randint(-1000, 1000, ((frames + 16) * 640,), generator=torch.Generator().manual_seed(seed), dtype=torch.int16),
        "reference": ((waves[-1] + 1) * 127).to(torch.uint8),
        "mouth": mouth,
        "truth": torch.zeros(6, frames),
    }


def write_toy_films(folder: Path, count: int = 4, **how: int) -> Path:
    for i in range(count):
        write_tensors(toy_film(i, **how), folder / f"toy-{i}.safetensors")
    return folder


def write_toy_models(folder: Path) -> tuple[Path, Path]:
    """Files of a DiT and a VAE."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(toy_state(), folder / "dit.safetensors")
    save_file(CausalVAE(toy_preset().vae).state_dict(), folder / "vae.safetensors")
    return folder / "dit.safetensors", folder / "vae.safetensors"


def toy_job(folder: Path, recipe: Recipe, out: str = "run") -> Job:
    """A job in a folder whose shards and models are made when they are not there."""
    if not (folder / "shards").is_dir():
        write_toy_shards(folder / "shards")
        write_toy_models(folder / "models")
    dit, vae = folder / "models" / "dit.safetensors", folder / "models" / "vae.safetensors"
    return Job(recipe=recipe, out=folder / out, data=folder / "shards", dit=(dit,), vae=vae, device="cpu")
