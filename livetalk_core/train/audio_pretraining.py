"""The small model's ears: its sound projection learns to tell the mouth from speech, before it is part of a DiT that draws.

A talker need not be drawn to be heard, so hours of speech cost minutes. What reads the mouth from the tokens is thrown away afterwards;
the projection starts a DiT, in which it stays as it is (`Optim.frozen`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.audio import normalize_loudness
from livetalk_core.models.audio_attention import AudioProjection
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.weightless import MelConfig, MelEncoder
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.window import slice_windows
from livetalk_core.talker.viseme import FIELDS, FPS

PIECE_FRAMES, AROUND_FRAMES = 89, 8
"""Frames of a piece of speech whose mouth is told, and of sound around them."""
PIECES = 4
"""Pieces of one script."""
FIRST_SEED = 50_000
"""Of the scripts; films have the seeds far below."""


class Speech(NamedTuple):
    """Sound and its mouth, piece by piece."""

    features_BTX: Tensor
    """Log-mel energies [B, 8 + 89 + 8, X], float16."""
    mouth_BTK: Tensor
    """The true mouth [B, 89, 6] float32, in the order of viseme.FIELDS."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How the projection is taught."""

    scripts: int = 1200
    """Of 15 s each."""
    steps: int = 6000
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 50
    drop_sound: float = 0.05
    """Share of the inputs of the first layers that is left out."""
    drop_hidden: float = 0.1
    seed: int = 0


class Listener(nn.Module):
    """The projection, and a line from its tokens to the mouth of each of a latent frame's frames."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.proj = AudioProjection(config)
        self.stride = config.temporal_stride
        self.read = nn.Linear(config.audio_tokens * config.audio_width, self.stride * len(FIELDS))

    def forward(self, features_BTWX: Tensor) -> Tensor:
        """[B, 4 t - 3, W, X] -> mouths [B, t, 4 x 6] in units of their deviation; all four of the first latent frame are its one."""
        return self.read(self.proj(features_BTWX[:, None]).flatten(2))


def write_speech(seeds: Sequence[int], config: MelConfig, split: str = "train") -> Speech:
    """Scripts of these seeds, heard and cut, on all cores."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(hear_script, seeds, [config] * len(seeds), [split] * len(seeds), chunksize=8))
    return Speech(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def hear_script(seed: int, config: MelConfig, split: str) -> Speech:
    """The pieces of one script."""
    from livetalk_core.talker.clip import write_script

    torch.set_num_threads(1)
    script = write_script(FIRST_SEED + seed, (PIECES * PIECE_FRAMES + 2 * AROUND_FRAMES) / FPS, split)
    features_TX = MelEncoder(config)(normalize_loudness(torch.from_numpy(script.samples_N))).flatten(1)
    mouth_TK = torch.from_numpy(script.truth.rows(FIELDS)).T[AROUND_FRAMES:-AROUND_FRAMES]
    pieces = features_TX.unfold(0, PIECE_FRAMES + 2 * AROUND_FRAMES, PIECE_FRAMES).transpose(1, 2)
    return Speech(features_BTX=pieces.half(), mouth_BTK=mouth_TK.float().unflatten(0, (PIECES, PIECE_FRAMES)))


def teach(config: DiTConfig, plan: StreamPlan, speech: Speech, lesson: Lesson, tell: Callable[[str], None] = print) -> Listener:
    """A listener trained on chunks of the speech that begin anywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        listener = Listener(config)
        for layer in (listener.proj.proj1, listener.proj.proj1_vf, listener.proj.proj2, listener.proj.proj3):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        hooks = drop_inputs(listener.proj, lesson)
        optimizer = torch.optim.AdamW(listener.parameters(), lr=lesson.lr, weight_decay=lesson.weight_decay)
        unit_K = speech.mouth_BTK.flatten(0, 1).std(0)
        for step in range(lesson.steps):
            rate = lesson.lr * min(1.0, (step + 1) / (lesson.warmup + 1)) * (1 - step / lesson.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = torch.randint(len(speech.mouth_BTK), (lesson.batch,))
            features_BTWX, mouth_BTK = cut_chunk(speech, rows, int(torch.randint(last_start(plan) + 1, ())), plan)
            loss = F.mse_loss(listener(features_BTWX), by_latent(mouth_BTK / unit_K, listener.stride))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % 1000 == 0:
                tell(f"hearing: step {step + 1}/{lesson.steps}  loss {loss.item():.3f}")
        for hook in hooks:
            hook.remove()
    return listener.eval().requires_grad_(False)


def drop_inputs(proj: AudioProjection, lesson: Lesson) -> list[torch.utils.hooks.RemovableHandle]:
    """Dropout before each of the projection's layers, for as long as the hooks are there."""
    shares = {
        proj.proj1: lesson.drop_sound,
        proj.proj1_vf: lesson.drop_sound,
        proj.proj2: lesson.drop_hidden,
        proj.proj3: lesson.drop_hidden,
    }
    return [layer.register_forward_pre_hook(lambda _, x, share=share: F.dropout(x[0], share)) for layer, share in shares.items()]


def cut_chunk(speech: Speech, rows: Tensor, start: int, plan: StreamPlan) -> tuple[Tensor, Tensor]:
    """A chunk of some pieces from a frame on: windows [B, 33, W, X] and mouths [B, 33, 6], float32."""
    features_BTX = speech.features_BTX[rows].float()
    return slice_windows(features_BTX, AROUND_FRAMES + start, plan), speech.mouth_BTK[rows, start : start + plan.chunk_frames]


def last_start(plan: StreamPlan) -> int:
    """Of a chunk within a piece."""
    return PIECE_FRAMES - plan.chunk_frames


def by_latent(mouth_BTK: Tensor, stride: int) -> Tensor:
    """[B, 4 t - 3, K] -> [B, t, 4 K]: the first latent frame has one frame, here four times."""
    first = mouth_BTK[:, :1].expand(-1, stride - 1, -1)
    return torch.cat([first, mouth_BTK], dim=1).unflatten(1, (-1, stride)).flatten(2)


@torch.no_grad()
def examine(listener: Listener, plan: StreamPlan, speech: Speech) -> dict[str, float]:
    """Correlation of each of the mouth's numbers with the truth, mean over the pieces: as well as a mouth can follow this projection."""
    heard, true = [], []
    for start in range(0, last_start(plan) + 1, plan.new_frames):
        features_BTWX, mouth_BTK = cut_chunk(speech, torch.arange(len(speech.mouth_BTK)), start, plan)
        heard.append(listener(features_BTWX)[:, 1:].unflatten(2, (listener.stride, -1)).flatten(1, 2))
        true.append(mouth_BTK[:, 1:])
    pairs = zip(torch.cat(heard, 1).unbind(0), torch.cat(true, 1).unbind(0), strict=True)
    r_BK = torch.stack([centred_cosine(a_TK, b_TK) for a_TK, b_TK in pairs])
    return dict(zip(FIELDS, r_BK.nanmean(0).tolist(), strict=True))


def centred_cosine(a_TK: Tensor, b_TK: Tensor) -> Tensor:
    """[K]: correlation over time; not a number where something stands still."""
    a_TK, b_TK = a_TK - a_TK.mean(0), b_TK - b_TK.mean(0)
    return (a_TK * b_TK).sum(0) / (a_TK.norm(dim=0) * b_TK.norm(dim=0))
