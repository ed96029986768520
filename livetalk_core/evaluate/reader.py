"""Reads the mouth from pixels with a small convolutional network, trained on drawn talkers whose true mouth is known.

Axes in names: T frames, B batch, N pictures, K what is read, C colors, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import TRUTH, Film, FilmSet

READS = ("opening", "width", "rounding")
"""What is read, in the ranges of a film's truth."""
SIDE = 128
"""Pictures are resized to this first."""
TOP, LEFT, BOX = 56, 32, 64
"""The square that contains every talker's mouth in every frame."""
MARGIN = 4
"""Pixels around the box, for random shifts in training."""
MIDDLE, SPREAD = (0.24, 0.11, 0.13), (0.22, 0.25, 0.26)
"""Mean and deviation of the truth over the films; the network predicts in this scale."""


@dataclass(frozen=True, kw_only=True)
class ReaderTraining:
    """How a reader is trained. Pictures are augmented like generated ones: shifted, blurred, noisy, brighter or darker."""

    epochs: int = 10
    batch: int = 64
    every: int = 4
    """One in so many frames of a film is used."""
    lr: float = 2e-3
    max_blur: float = 2.0
    """Largest standard deviation of the blur, in pixels."""
    brightness: float = 0.25
    noise: float = 0.04
    """For pictures in [-1, 1]; half of them get none."""
    seed: int = 0


class MouthReader(nn.Module):
    """Frames to mouths."""

    def __init__(self, width: int = 32):
        super().__init__()
        sizes = ((3, width, 2), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1), (2 * width, 2 * width, 2))
        self.convs = nn.ModuleList(nn.Conv2d(wide, out, 3, stride, 1) for wide, out, stride in sizes)
        self.hidden = nn.Linear(2 * width * (BOX // 8) ** 2, 128)
        self.head = nn.Linear(128, len(READS))

    def forward(self, boxes_NCHW: Tensor) -> Tensor:
        """Mouth boxes [N, 3, 64, 64] in [-1, 1] -> [N, K] in the network's own scale."""
        mean, std = boxes_NCHW.mean((1, 2, 3), keepdim=True), boxes_NCHW.std((1, 2, 3), keepdim=True)
        x = ((boxes_NCHW - mean) / (std + 0.05)).contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.head(F.relu(self.hidden(x.flatten(1))))

    @torch.no_grad()
    def read(self, frames_THWC: Tensor, batch: int = 128) -> Tensor:
        """uint8 frames of any size -> [K, T]: the mouth in the truth's ranges, averaged over the frame and its mirror image.

        Convolutions run in bfloat16.
        """
        tracks = []
        for piece_THWC in frames_THWC.split(batch):
            boxes = cut_boxes(piece_THWC)
            with torch.autocast("cpu", torch.bfloat16):
                tracks.append((self(boxes).float() + self(boxes.flip(3)).float()) / 2)
        return (torch.cat(tracks) * torch.tensor(SPREAD) + torch.tensor(MIDDLE)).T


def find_reader(path: Path, films: Path | None, tell: Callable[[str], None] = print) -> MouthReader:
    """The reader in the file; trained on the folder of films and written there if there is none yet."""
    if path.is_file() or films is None:
        return load_reader(path)
    return train_reader(FilmSet(films), path, tell=tell)


def load_reader(path: Path) -> MouthReader:
    """A reader that `train_reader` wrote. ValueError for another file, FileNotFoundError for none."""
    if not path.is_file():
        raise FileNotFoundError(f"reader {path} does not exist; give the folder of films to train one with --films")
    reader = MouthReader()
    tensors = load_file(path)
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: tensor.shape for name, tensor in reader.state_dict().items()}:
        raise ValueError(f"{path} is not a reader; give a new file name to train one")
    reader.load_state_dict(tensors)
    return reader.eval().requires_grad_(False)


def train_reader(films: FilmSet, path: Path, training: ReaderTraining | None = None, tell: Callable[[str], None] = print) -> MouthReader:
    """Train a reader on the films' frames and truth and write it to `path`; takes a few minutes on one CPU core."""
    training = training or ReaderTraining()
    tell(f"reading {len(films)} films")
    boxes_NHWC, truth_NK = load_boxes(films, training.every)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        reader = MouthReader()
        fit(reader, boxes_NHWC, truth_NK, training, tell)
    write_tensors(reader.state_dict(), path)
    return reader.eval().requires_grad_(False)


def load_boxes(films: FilmSet, every: int) -> tuple[Tensor, Tensor]:
    """uint8 mouth boxes with margin [N, H, W, 3] and truths [N, K] in the network's scale, of one in `every` frames."""
    rows = [TRUTH.index(name) for name in READS]
    boxes, truths = [], []
    for path in films.paths:
        film = Film(path)
        frames_THWC = film.read("frames")[::every]
        if frames_THWC.shape[1:3] != (SIDE, SIDE):
            raise ValueError(
                f"{path}: frames of {frames_THWC.shape[2]}x{frames_THWC.shape[1]} must be {SIDE}x{SIDE}; draw films of that size"
            )
        boxes.append(frames_THWC[:, TOP - MARGIN : TOP + BOX + MARGIN, LEFT - MARGIN : LEFT + BOX + MARGIN].clone())
        truths.append(film.read("truth")[rows, ::every].T)
    return torch.cat(boxes), (torch.cat(truths) - torch.tensor(MIDDLE)) / torch.tensor(SPREAD)


def fit(reader: MouthReader, boxes_NHWC: Tensor, truth_NK: Tensor, training: ReaderTraining, tell: Callable[[str], None]) -> None:
    """Mean square error, AdamW, a learning rate with 5 % warm-up and cosine decay."""
    optimizer = torch.optim.AdamW(reader.parameters(), lr=training.lr, betas=(0.9, 0.99), weight_decay=0.01)
    per_epoch = max(1, len(boxes_NHWC) // training.batch)
    steps, losses = training.epochs * per_epoch, []
    for step in range(steps):
        if step % per_epoch == 0:
            order_N = torch.randperm(len(boxes_NHWC))
        rate = min((step + 1) / (0.05 * steps + 1), 0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = training.lr * rate
        chosen_B = order_N[step % per_epoch * training.batch :][: training.batch]
        with torch.autocast("cpu", torch.bfloat16):
            read_BK = reader(augment(boxes_NHWC[chosen_B], training))
        loss = (read_BK.float() - truth_NK[chosen_B]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if (step + 1) % per_epoch == 0:
            tell(
                f"reader epoch {(step + 1) // per_epoch}/{training.epochs}: mean square error {torch.stack(losses[-per_epoch:]).mean():.4f}"
            )


def augment(boxes_BHWC: Tensor, training: ReaderTraining) -> Tensor:
    """Boxes with margin -> [B, 3, 64, 64] in [-1, 1], each randomly shifted, mirrored, blurred and lit."""
    count = len(boxes_BHWC)
    shifts_B2 = torch.randint(0, 2 * MARGIN + 1, (count, 2)).tolist()
    cut = [box[top : top + BOX, left : left + BOX] for box, (top, left) in zip(boxes_BHWC, shifts_B2, strict=True)]
    x = torch.stack(cut).permute(0, 3, 1, 2).float() / 127.5 - 1
    x = torch.where(torch.rand(count, 1, 1, 1) < 0.5, x, x.flip(3))
    soft = blur(x, float(torch.rand(())) * training.max_blur)
    x = x + torch.rand(count, 1, 1, 1) * (soft - x)
    light, tint = (training.brightness * (2 * torch.rand(count, channels, 1, 1) - 1) for channels in (1, 3))
    noise = training.noise * (torch.rand(count, 1, 1, 1) - 0.5).clamp_min(0) * 2
    return (1 + light) * x + tint + noise * torch.randn_like(x)


def blur(x_BCHW: Tensor, deviation: float) -> Tensor:
    """Gaussian blur of this standard deviation in pixels; edges are repeated."""
    reach = math.ceil(2.5 * deviation)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(deviation, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(x_BCHW, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def cut_boxes(frames_THWC: Tensor) -> Tensor:
    """Mouth boxes [T, 3, 64, 64] in [-1, 1] of uint8 frames of any size."""
    x = frames_THWC.permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[2:] != (SIDE, SIDE):
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
    return x[:, :, TOP : TOP + BOX, LEFT : LEFT + BOX]
