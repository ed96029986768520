"""Complete recipes, as functions."""

from __future__ import annotations

from livetalk_core.presets import Preset, livetalk_14b
from livetalk_core.presets import nano as whole_nano
from livetalk_core.train.config import DMD, SFT, Enlarging, Optim, Recipe, Run, SmallSFT, Tokenizer

FROZEN = ("audio_proj", "shifts")
"""Parts of the small model that are ready before Stage 1 and stay frozen: audio projection and shift kernels."""


def nano() -> Preset:
    """The small model as its DiT and VAE are trained: without what enlarges frames afterwards."""
    return whole_nano().without_enlarger()


def sft_14b() -> Recipe:
    """Stage 1 of the report: 1000 steps on 32 GPUs, one sample each. The report does not give rate, betas and dropouts; these are usual."""
    return Recipe(
        name="sft_14b",
        model=livetalk_14b(),
        run=Run(steps=1000, dtype="bfloat16", checkpoint_activations=True, save_every=100, validate_every=100, workers=2),
        stage=SFT(optim=Optim(lr=2e-6, betas=(0.9, 0.99))),
    )


def dmd_14b() -> Recipe:
    """Stage 2 of the report: 200 steps on 32 GPUs, one sample each; rates 2e-6 and 4e-7; one generator update per five of the fake score.

    A step is an update of the fake score, so the generator gets 40 updates. Betas and clipping are from Self-Forcing, whose EMA (0.99 from
    step 200) would be too slow for 40; this one covers about the last ten updates. The guidance is InfiniteTalk's default.
    """
    return Recipe(
        name="dmd_14b",
        model=livetalk_14b(),
        run=Run(
            steps=200, dtype="bfloat16", checkpoint_activations=True, ema_decay=0.9, ema_start=20,
            save_every=50, validate_every=50, workers=2,
        ),
        stage=DMD(
            generator=Optim(lr=2e-6, betas=(0.0, 0.999), clip=10.0),
            critic=Optim(lr=4e-7, betas=(0.0, 0.999), clip=10.0),
            text_guidance=5.0,
            audio_guidance=4.0,
        ),
    )  # fmt: skip


def vae_nano() -> Recipe:
    """Training of the small model's VAE decoder, after the DiT: it learns to decode and to correct the DiT's errors."""
    return Recipe(
        name="vae_nano",
        model=nano(),
        run=Run(steps=2100, batch=4, dtype="bfloat16", ema_decay=0.99, ema_start=100, save_every=100, validate_every=2100, log_every=20),
        stage=Tokenizer(
            optim=Optim(lr=1e-3, betas=(0.9, 0.99), warmup=100, fall=(1600, 2100), muon=2.0), frames=33, errors=0.75, edge_weight=0.4
        ),
    )


def enlarger_nano() -> Recipe:
    """Training of the small model's enlarger, on frames that its DiT and VAE have made."""
    return Recipe(
        name="enlarger_nano",
        model=nano(),
        run=Run(steps=2000, batch=16, dtype="bfloat16", ema_decay=0.99, ema_start=100, save_every=100, validate_every=2000, log_every=20),
        stage=Enlarging(optim=Optim(lr=1e-3, betas=(0.9, 0.99), warmup=50, fall=(1400, 2000), muon=2.0)),
    )


def sft_nano() -> Recipe:
    """The small model's Stage 1; starts from a DiT with a pretrained audio projection."""
    return Recipe(
        name="sft_nano",
        model=nano(),
        run=Run(
            steps=4000, batch=8, dtype="bfloat16", compile=True, ema_decay=0.995, ema_start=300,
            save_every=100, validate_every=4000, validate_chunks=3, log_every=10,
        ),
        stage=SmallSFT(
            optim=Optim(lr=8e-4, betas=(0.9, 0.99), warmup=100, fall=(2600, 4000), muon=1.0, frozen=FROZEN),
            square=4, squares=2, whole_from=3550, audio_guidance=1.5, guided_from=3200,
            shift=3.0, full_weight_from=0.4, noise_motion=0.1,
            drop_text_and_audio=0.0, drop_text=0.0, drop_audio=0.1, mouth_weight=4.0,
        ),
    )  # fmt: skip


def sft_photos() -> Recipe:
    """The small model goes on from drawn people to photographs: Stage 1 once more, on films of both, from the distilled DiT.

    Most crops are at the mouth, or at eyes that blink: on photographs a mouth is a small part of what changes.
    """
    return Recipe(
        name="sft_photos",
        model=nano(),
        run=Run(
            steps=19000, batch=8, dtype="bfloat16", compile=True, ema_decay=0.97, ema_start=30,
            save_every=50, validate_every=19000, validate_chunks=3, log_every=10,
        ),
        stage=SmallSFT(
            optim=Optim(lr=5e-4, betas=(0.9, 0.99), warmup=20, fall=(17500, 19000), muon=1.0, frozen=FROZEN),
            square=4, squares=2, at_mouth=0.8, whole_from=7000, audio_guidance=1.9, guided_from=7500,
            shift=3.0, full_weight_from=0.4, noise_motion=0.1, bent_motion=0.5,
            drop_text_and_audio=0.0, drop_text=0.0, drop_audio=0.1, mouth_weight=8.0, blink_weight=8.0,
        ),
    )  # fmt: skip


def dmd_nano() -> Recipe:
    """The small model's Stage 2: clean motion latents, and no guidance, since Stage 1 has learned it.

    A batch on a CPU is small, so both optimizers average gradients over about ten updates (beta 0.9); a batch of 32 needs no averaging.
    """
    return Recipe(
        name="dmd_nano",
        model=nano(),
        run=Run(steps=30, batch=8, dtype="bfloat16", ema_decay=0.9, ema_start=4, save_every=10, validate_every=30, log_every=5),
        stage=DMD(
            generator=Optim(lr=1e-5, betas=(0.9, 0.99), clip=10.0, frozen=FROZEN),
            critic=Optim(lr=3e-5, betas=(0.9, 0.99), clip=10.0, frozen=FROZEN),
            chunks=3,
            shift=3.0,
            last_noise=0.0,
            noise_motion=False,
        ),
    )


RECIPES = {make.__name__: make for make in (sft_14b, dmd_14b, vae_nano, enlarger_nano, sft_nano, dmd_nano, sft_photos)}
