"""Pretrains the small model's sound projection to predict the mouth from speech.

This needs no pictures, so hours of speech take minutes. The linear readout is thrown away afterwards. The projection goes into a new DiT,
where it stays frozen (`Optim.frozen`).
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
"""Frames in a piece of speech, and extra frames of sound before and after it."""
PIECES = 4
"""Pieces per script."""
FIRST_SEED = 50_000
"""First seed of the scripts, far above the seeds of the films."""


class Speech(NamedTuple):
    """Sound and mouth shapes of B pieces of speech."""

    features_BTX: Tensor
    """Log-mel energies [B, 8 + 89 + 8, X], float16."""
    mouth_BTK: Tensor
    """The true mouth [B, 89, 6] float32, in the order of viseme.FIELDS."""


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Settings of the pretraining."""

    scripts: int = 1200
    """Scripts of 15 s each."""
    steps: int = 6000
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 50
    drop_sound: float = 0.05
    """Dropout before the first layers."""
    drop_hidden: float = 0.1
    """Dropout before the later layers."""
    seed: int = 0


class MouthPredictor(nn.Module):
    """The projection, and a linear readout from its tokens to the mouth in each frame of a latent frame."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.proj = AudioProjection(config)
        self.stride = config.temporal_stride
        self.read = nn.Linear(config.audio_tokens * config.audio_width, self.stride * len(FIELDS))

    def forward(self, features_BTWX: Tensor) -> Tensor:
        """[B, 4 t - 3, W, X] -> mouths [B, t, 4 x 6] in units of their deviation; the first latent frame's mouth is predicted 4 times."""
        return self.read(self.proj(features_BTWX[:, None]).flatten(2))


def make_speech(seeds: Sequence[int], config: MelConfig, split: str = "train") -> Speech:
    """Make the scripts of these seeds, encode their sound and cut them into pieces, on all cores."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(encode_script, seeds, [config] * len(seeds), [split] * len(seeds), chunksize=8))
    return Speech(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def encode_script(seed: int, config: MelConfig, split: str) -> Speech:
    """The pieces of the script of one seed."""
    from livetalk_core.talker.clip import write_script

    torch.set_num_threads(1)
    script = write_script(FIRST_SEED + seed, (PIECES * PIECE_FRAMES + 2 * AROUND_FRAMES) / FPS, split)
    features_TX = MelEncoder(config)(normalize_loudness(torch.from_numpy(script.samples_N))).flatten(1)
    mouth_TK = torch.from_numpy(script.truth.rows(FIELDS)).T[AROUND_FRAMES:-AROUND_FRAMES]
    pieces = features_TX.unfold(0, PIECE_FRAMES + 2 * AROUND_FRAMES, PIECE_FRAMES).transpose(1, 2)
    return Speech(features_BTX=pieces.half(), mouth_BTK=mouth_TK.float().unflatten(0, (PIECES, PIECE_FRAMES)))


def pretrain(
    config: DiTConfig, plan: StreamPlan, speech: Speech, settings: PretrainSettings, tell: Callable[[str], None] = print
) -> MouthPredictor:
    """Train a projection on chunks of the speech with random start frames."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        predictor = MouthPredictor(config)
        for layer in (predictor.proj.proj1, predictor.proj.proj1_vf, predictor.proj.proj2, predictor.proj.proj3):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        hooks = drop_inputs(predictor.proj, settings)
        optimizer = torch.optim.AdamW(predictor.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        unit_K = speech.mouth_BTK.flatten(0, 1).std(0)
        for step in range(settings.steps):
            rate = settings.lr * min(1.0, (step + 1) / (settings.warmup + 1)) * (1 - step / settings.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = torch.randint(len(speech.mouth_BTK), (settings.batch,))
            features_BTWX, mouth_BTK = cut_chunk(speech, rows, int(torch.randint(last_start(plan) + 1, ())), plan)
            loss = F.mse_loss(predictor(features_BTWX), group_by_latent(mouth_BTK / unit_K, predictor.stride))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % 1000 == 0:
                tell(f"audio pretraining: step {step + 1}/{settings.steps}  loss {loss.item():.3f}")
        for hook in hooks:
            hook.remove()
    return predictor.eval().requires_grad_(False)


def drop_inputs(proj: AudioProjection, settings: PretrainSettings) -> list[torch.utils.hooks.RemovableHandle]:
    """Add dropout before each of the projection's layers; removing the hooks ends it."""
    shares = {
        proj.proj1: settings.drop_sound,
        proj.proj1_vf: settings.drop_sound,
        proj.proj2: settings.drop_hidden,
        proj.proj3: settings.drop_hidden,
    }
    return [layer.register_forward_pre_hook(lambda _, x, share=share: F.dropout(x[0], share)) for layer, share in shares.items()]


def cut_chunk(speech: Speech, rows: Tensor, start: int, plan: StreamPlan) -> tuple[Tensor, Tensor]:
    """The chunk at frame `start` of some pieces: windows [B, 33, W, X] and mouths [B, 33, 6], float32."""
    features_BTX = speech.features_BTX[rows].float()
    return slice_windows(features_BTX, AROUND_FRAMES + start, plan), speech.mouth_BTK[rows, start : start + plan.chunk_frames]


def last_start(plan: StreamPlan) -> int:
    """The last frame of a piece at which a chunk can start."""
    return PIECE_FRAMES - plan.chunk_frames


def group_by_latent(mouth_BTK: Tensor, stride: int) -> Tensor:
    """[B, 4 t - 3, K] -> [B, t, 4 K]: the first latent frame has only one frame, which is repeated four times."""
    first = mouth_BTK[:, :1].expand(-1, stride - 1, -1)
    return torch.cat([first, mouth_BTK], dim=1).unflatten(1, (-1, stride)).flatten(2)


@torch.no_grad()
def measure_correlation(predictor: MouthPredictor, plan: StreamPlan, speech: Speech) -> dict[str, float]:
    """Correlation of each mouth value with the truth, averaged over the pieces: how well a mouth can follow this projection."""
    heard, true = [], []
    for start in range(0, last_start(plan) + 1, plan.new_frames):
        features_BTWX, mouth_BTK = cut_chunk(speech, torch.arange(len(speech.mouth_BTK)), start, plan)
        heard.append(predictor(features_BTWX)[:, 1:].unflatten(2, (predictor.stride, -1)).flatten(1, 2))
        true.append(mouth_BTK[:, 1:])
    pairs = zip(torch.cat(heard, 1).unbind(0), torch.cat(true, 1).unbind(0), strict=True)
    r_BK = torch.stack([correlation(a_TK, b_TK) for a_TK, b_TK in pairs])
    return dict(zip(FIELDS, r_BK.nanmean(0).tolist(), strict=True))


def correlation(a_TK: Tensor, b_TK: Tensor) -> Tensor:
    """Correlation over time [K]; NaN where a value is constant."""
    a_TK, b_TK = a_TK - a_TK.mean(0), b_TK - b_TK.mean(0)
    return (a_TK * b_TK).sum(0) / (a_TK.norm(dim=0) * b_TK.norm(dim=0))
