"""How well a model talks: people, voices and sentences it was never trained on, and what is in the pixels against the truth.

Axes in names: T frames, K what the reader reads, H W pixels, C colors. Frames are uint8 [T, H, W, 3].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from livetalk_core.engine.engine import Engine, Stream
from livetalk_core.evaluate.measures import (
    background_mask,
    best_lag,
    color_shift,
    correlation,
    lag_curve,
    psnr,
    seam_jump,
    sharpness,
    steps_between,
)
from livetalk_core.evaluate.reader import READS, Reader
from livetalk_core.stream.condition import ENCODE_GROUPS
from livetalk_core.stream.session import DECODE_GROUPS, to_uint8
from livetalk_core.train.sample import to_signed
from livetalk_core.types import StreamSettings

SPLIT = "heldout"


@dataclass(frozen=True, kw_only=True)
class TrueTalk:
    """A clip whose mouth is known."""

    name: str
    frames_THWC: Tensor
    samples_N: Tensor
    """float32 [640 T], 16 kHz; frame k shows samples [640 k, 640 (k + 1))."""
    truth_KT: Tensor
    reference_HWC: Tensor
    """The same person at another moment."""
    mouth_HW: Tensor
    """Bool: where the mouth is at any time."""
    shut_THWC: Tensor
    """The same clip drawn with the lips at rest: a reader that follows head or brows shows here."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """What was found in one clip: tracks that the reader read, numbers, and frames to look at."""

    name: str
    tracks: dict[str, Tensor]
    """[K, T] of `truth`, and as read from `true`, `rebuilt`, `made` and `shut` frames."""
    numbers: dict[str, float]
    reference_HWC: Tensor
    moments: dict[int, dict[str, Tensor]]
    """By frame number: `true`, `rebuilt` and `made` pictures of widest, narrowest and roundest mouth."""


def true_talks(seeds: Sequence[int], seconds: float, size: int) -> Iterator[TrueTalk]:
    """The held-out talkers of some seeds; whole latents only, so up to 3 frames shorter than `seconds`."""
    from livetalk_core.talker.clip import make_clip
    from livetalk_core.talker.face import draw
    from livetalk_core.talker.identity import Mouth
    from livetalk_core.train.synthetic import mouth_mask

    for seed in seeds:
        clip = make_clip(seed, ((round(25 * seconds) - 1) // 4 * 4 + 1) / 25, size, SPLIT)
        yield TrueTalk(
            name=f"{SPLIT} {seed}: {clip.identity.style}, {clip.voice}",
            frames_THWC=torch.from_numpy(clip.frames_THWC),
            samples_N=torch.from_numpy(clip.samples_N),
            truth_KT=torch.from_numpy(clip.truth.rows(READS)),
            reference_HWC=torch.from_numpy(clip.reference_HWC),
            mouth_HW=mouth_mask(clip.identity, clip.poses, size),
            shut_THWC=torch.from_numpy(np.stack([draw(clip.identity, pose, Mouth(), size) for pose in clip.poses])),
        )


def take_talks(
    engine: Engine, reader: Reader, talks: Iterable[TrueTalk], settings: StreamSettings, tell: Callable[[str], None] = print
) -> list[Take]:
    """Each clip spoken by the engine from its reference picture, and rebuilt by its VAE; measured, frames let go."""
    takes = []
    for talk in talks:
        new_frames = engine.plan(*talk.reference_HWC.shape[1::-1]).new_frames
        take = measure(reader, talk, rebuild(engine, talk.frames_THWC), speak(engine, talk, settings), new_frames)
        tell(f"{take.name}: opening {take.numbers['made_opening']:.3f}, background {take.numbers['background_psnr']:.1f} dB")
        takes.append(take)
    return takes


@torch.no_grad()
def speak(engine: Engine, talk: TrueTalk, settings: StreamSettings) -> Tensor:
    """The engine's frames for a clip's sound and reference picture, through the normal stream."""
    with closing(start(engine, talk, settings)) as stream:
        return torch.cat([chunk.frames_THWC for chunk in (*stream.push(talk.samples_N), *stream.finish(len(talk.frames_THWC)))])


def start(engine: Engine, talk: TrueTalk, settings: StreamSettings) -> Stream:
    """A stream of the clip's reference picture."""
    return engine.open(engine.reference(to_signed(talk.reference_HWC[None])[:, 0]), settings)


@torch.no_grad()
def rebuild(engine: Engine, frames_THWC: Tensor) -> Tensor:
    """What the engine's VAE makes of 4 k + 1 true frames: the best that a perfect DiT could show."""
    video_CTHW = to_signed(frames_THWC).to(engine.device)
    vae = engine.models.vae
    pieces = vae.decode(vae.encode(video_CTHW, ENCODE_GROUPS), DECODE_GROUPS)
    return torch.cat([to_uint8(piece_CTHW.float()).cpu() for piece_CTHW in pieces])


def measure(reader: Reader, talk: TrueTalk, rebuilt_THWC: Tensor, made_THWC: Tensor, new_frames: int) -> Take:
    """One clip against its truth. `new_frames`: of a chunk, to find its seams."""
    kinds = {"true": talk.frames_THWC, "rebuilt": rebuilt_THWC, "made": made_THWC}
    assert len({len(frames_THWC) for frames_THWC in kinds.values()}) == 1, {kind: len(frames) for kind, frames in kinds.items()}
    tracks = {kind: reader.read(frames_THWC) for kind, frames_THWC in (*kinds.items(), ("shut", talk.shut_THWC))}
    opening_T, _, rounding_T = talk.truth_KT
    moments = dict.fromkeys(int(k) for k in (opening_T.argmax(), (opening_T + rounding_T).argmin(), rounding_T.argmax()))
    return Take(
        name=talk.name,
        tracks={"truth": talk.truth_KT, **tracks},
        numbers=follow(tracks, talk.truth_KT) | look(talk, rebuilt_THWC, made_THWC, new_frames),
        reference_HWC=talk.reference_HWC,
        moments={k: {kind: frames_THWC[k].clone() for kind, frames_THWC in kinds.items()} for k in moments},
    )


def follow(tracks: dict[str, Tensor], truth_KT: Tensor) -> dict[str, float]:
    """How well each kind of frames follows the truth, and how far the lips move next to those of the rebuilt frames."""
    numbers = {
        f"{kind}_{name}": correlation(read_KT[row], truth_KT[row]) for kind, read_KT in tracks.items() for row, name in enumerate(READS)
    }
    spread = {kind: float(read_KT[0].std()) for kind, read_KT in tracks.items()}
    ranges = {f"{kind}_range": spread[kind] / max(spread["rebuilt"], 1e-6) for kind in ("made", "shut")}
    return numbers | ranges | {"lag": float(best_lag(lag_curve(tracks["made"][0], truth_KT[0])))}


def look(talk: TrueTalk, rebuilt_THWC: Tensor, made_THWC: Tensor, new_frames: int) -> dict[str, float]:
    """How the pictures look: the VAE's against the true ones, the engine's against the reference and the VAE's."""
    true_THWC, still_HW = talk.frames_THWC, background_mask(talk.frames_THWC, talk.reference_HWC)
    rebuilt_sharpness, rebuilt_magnitude = sharper(rebuilt_THWC, true_THWC)
    made_sharpness, made_magnitude = sharper(made_THWC, rebuilt_THWC)
    return {
        "rebuilt_psnr": psnr(rebuilt_THWC, true_THWC),
        "rebuilt_mouth_psnr": psnr(rebuilt_THWC, true_THWC, talk.mouth_HW),
        "rebuilt_background_psnr": psnr(rebuilt_THWC, talk.reference_HWC[None], still_HW),
        "rebuilt_sharpness": rebuilt_sharpness,
        "rebuilt_magnitude": rebuilt_magnitude,
        "background_share": float(still_HW.float().mean()),
        "background_psnr": psnr(made_THWC, talk.reference_HWC[None], still_HW),
        "sharpness": made_sharpness,
        "magnitude": made_magnitude,
        "talker_sharpness": sharper(made_THWC, rebuilt_THWC, ~still_HW)[0],
        "mouth_sharpness": sharper(made_THWC, rebuilt_THWC, talk.mouth_HW)[0],
        "color_shift": float(color_shift(made_THWC, talk.reference_HWC).mean()),
        "true_color_shift": float(color_shift(true_THWC, talk.reference_HWC).mean()),
        "motion": float(steps_between(made_THWC).mean() / steps_between(rebuilt_THWC).mean().clamp_min(1e-6)),
        "seam_jump": seam_jump(steps_between(made_THWC), new_frames),
    }


def sharper(frames_THWC: Tensor, than_THWC: Tensor, mask_HW: Tensor | None = None) -> tuple[float, float]:
    """How sharp some frames are next to others, by the Laplacian's variance and by its magnitude: 1 is as sharp."""
    own, other = sharpness(frames_THWC, mask_HW), sharpness(than_THWC, mask_HW)
    variance, magnitude = (float(a_T.mean() / b_T.mean().clamp_min(1e-6)) for a_T, b_T in zip(own, other, strict=True))
    return variance, magnitude


def summarize(takes: Sequence[Take]) -> dict:
    """Every number's mean, least and most over the clips; lag and shuffled control over all of them."""
    numbers = {name: [take.numbers[name] for take in takes] for name in takes[0].numbers}
    curves = torch.stack([lag_curve(take.tracks["made"][0], take.tracks["truth"][0]) for take in takes])
    return {
        "clips": [{"name": take.name, **take.numbers} for take in takes],
        "numbers": {name: {"mean": sum(v) / len(v), "min": min(v), "max": max(v)} for name, v in numbers.items()},
        "lag": best_lag(curves.mean(0)),
        "lag_curve": curves.mean(0).tolist(),
        "lags_within_one": sum(abs(lag) <= 1 for lag in numbers["lag"]),
        "shuffled": shuffled([take.tracks["made"][0] for take in takes], [take.tracks["truth"][0] for take in takes]),
        "shuffled_truth": shuffled(*[[take.tracks["truth"][0] for take in takes]] * 2),
    }


def shuffled(read: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Mean correlation of what was read in each clip with the truth of every other one: what sound of somebody else gives."""
    pairs = [correlation(a_T, b_T) for i, a_T in enumerate(read) for j, b_T in enumerate(truth) if i != j]
    return sum(pairs) / max(1, len(pairs))
