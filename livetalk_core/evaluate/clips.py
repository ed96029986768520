"""How well a model talks on held-out people, voices and sentences: what is in its pixels against the truth.

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
from livetalk_core.evaluate.reader import READS, MouthReader
from livetalk_core.stream.condition import ENCODE_GROUPS
from livetalk_core.stream.session import DECODE_GROUPS, to_uint8
from livetalk_core.train.sample import to_signed
from livetalk_core.types import StreamSettings

SPLIT = "heldout"


@dataclass(frozen=True, kw_only=True)
class TrueClip:
    """A drawn clip, whose true mouth is known."""

    name: str
    frames_THWC: Tensor
    samples_N: Tensor
    """float32 [640 T], 16 kHz; frame k shows samples [640 k, 640 (k + 1))."""
    truth_KT: Tensor
    reference_HWC: Tensor
    """The same person at another moment."""
    mouth_HW: Tensor
    """Bool: where the mouth is in any frame."""
    shut_THWC: Tensor
    """The same clip with the lips at rest. A reader that follows the head or the brows is caught here."""


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """One measured clip: the mouth reader's tracks, numbers, and some frames."""

    name: str
    tracks: dict[str, Tensor]
    """[K, T] of `truth`, and as read from the `true`, `rebuilt`, `made` and `shut` frames."""
    numbers: dict[str, float]
    reference_HWC: Tensor
    moments: dict[int, dict[str, Tensor]]
    """By frame number: the `true`, `rebuilt` and `made` pictures of the widest, narrowest and roundest mouth."""


def true_clips(seeds: Sequence[int], seconds: float, size: int) -> Iterator[TrueClip]:
    """The held-out talkers of these seeds. Clips are whole latent frames, so up to 3 frames shorter than `seconds`."""
    from livetalk_core.talker.clip import make_clip
    from livetalk_core.talker.face import draw
    from livetalk_core.talker.identity import Mouth
    from livetalk_core.train.synthetic import mouth_mask

    for seed in seeds:
        clip = make_clip(seed, ((round(25 * seconds) - 1) // 4 * 4 + 1) / 25, size, SPLIT)
        yield TrueClip(
            name=f"{SPLIT} {seed}: {clip.identity.style}, {clip.voice}",
            frames_THWC=torch.from_numpy(clip.frames_THWC),
            samples_N=torch.from_numpy(clip.samples_N),
            truth_KT=torch.from_numpy(clip.truth.rows(READS)),
            reference_HWC=torch.from_numpy(clip.reference_HWC),
            mouth_HW=mouth_mask(clip.identity, clip.poses, size),
            shut_THWC=torch.from_numpy(np.stack([draw(clip.identity, pose, Mouth(), size) for pose in clip.poses])),
        )


def measure_clips(
    engine: Engine, reader: MouthReader, clips: Iterable[TrueClip], settings: StreamSettings, tell: Callable[[str], None] = print
) -> list[ClipResult]:
    """Each clip as the engine makes it from its sound and reference picture, and as the VAE rebuilds it. Frames are not kept."""
    results = []
    for clip in clips:
        new_frames = engine.plan(*clip.reference_HWC.shape[1::-1]).new_frames
        result = measure_clip(reader, clip, rebuild(engine, clip.frames_THWC), make_frames(engine, clip, settings), new_frames)
        tell(f"{result.name}: opening {result.numbers['made_opening']:.3f}, background {result.numbers['background_psnr']:.1f} dB")
        results.append(result)
    return results


@torch.no_grad()
def make_frames(engine: Engine, clip: TrueClip, settings: StreamSettings) -> Tensor:
    """The engine's frames for a clip's sound and reference picture, from a normal stream."""
    with closing(open_stream(engine, clip, settings)) as stream:
        return torch.cat([chunk.frames_THWC for chunk in (*stream.push(clip.samples_N), *stream.finish(len(clip.frames_THWC)))])


def open_stream(engine: Engine, clip: TrueClip, settings: StreamSettings) -> Stream:
    """A stream of the clip's reference picture."""
    return engine.open(engine.reference(to_signed(clip.reference_HWC[None])[:, 0]), settings)


@torch.no_grad()
def rebuild(engine: Engine, frames_THWC: Tensor) -> Tensor:
    """4 k + 1 true frames encoded and decoded by the engine's VAE: the best that a perfect DiT could give."""
    video_CTHW = to_signed(frames_THWC).to(engine.device)
    vae = engine.models.vae
    pieces = vae.decode(vae.encode(video_CTHW, ENCODE_GROUPS), DECODE_GROUPS)
    return torch.cat([to_uint8(piece_CTHW.float()).cpu() for piece_CTHW in pieces])


def measure_clip(reader: MouthReader, clip: TrueClip, rebuilt_THWC: Tensor, made_THWC: Tensor, new_frames: int) -> ClipResult:
    """One clip against its truth. `new_frames` is the length of a chunk, to find the seams."""
    kinds = {"true": clip.frames_THWC, "rebuilt": rebuilt_THWC, "made": made_THWC}
    assert len({len(frames_THWC) for frames_THWC in kinds.values()}) == 1, {kind: len(frames) for kind, frames in kinds.items()}
    tracks = {kind: reader.read(frames_THWC) for kind, frames_THWC in (*kinds.items(), ("shut", clip.shut_THWC))}
    opening_T, _, rounding_T = clip.truth_KT
    moments = dict.fromkeys(int(k) for k in (opening_T.argmax(), (opening_T + rounding_T).argmin(), rounding_T.argmax()))
    return ClipResult(
        name=clip.name,
        tracks={"truth": clip.truth_KT, **tracks},
        numbers=lip_numbers(tracks, clip.truth_KT) | picture_numbers(clip, rebuilt_THWC, made_THWC, new_frames),
        reference_HWC=clip.reference_HWC,
        moments={k: {kind: frames_THWC[k].clone() for kind, frames_THWC in kinds.items()} for k in moments},
    )


def lip_numbers(tracks: dict[str, Tensor], truth_KT: Tensor) -> dict[str, float]:
    """How well the lips in each kind of frames follow the truth, and how far they move compared with the rebuilt frames."""
    numbers = {
        f"{kind}_{name}": correlation(read_KT[row], truth_KT[row]) for kind, read_KT in tracks.items() for row, name in enumerate(READS)
    }
    spread = {kind: float(read_KT[0].std()) for kind, read_KT in tracks.items()}
    ranges = {f"{kind}_range": spread[kind] / max(spread["rebuilt"], 1e-6) for kind in ("made", "shut")}
    return numbers | ranges | {"lag": float(best_lag(lag_curve(tracks["made"][0], truth_KT[0])))}


def picture_numbers(clip: TrueClip, rebuilt_THWC: Tensor, made_THWC: Tensor, new_frames: int) -> dict[str, float]:
    """The VAE's frames against the true ones, and the engine's against the reference and the VAE's."""
    true_THWC, still_HW = clip.frames_THWC, background_mask(clip.frames_THWC, clip.reference_HWC)
    rebuilt_sharpness, rebuilt_magnitude = relative_sharpness(rebuilt_THWC, true_THWC)
    made_sharpness, made_magnitude = relative_sharpness(made_THWC, rebuilt_THWC)
    return {
        "rebuilt_psnr": psnr(rebuilt_THWC, true_THWC),
        "rebuilt_mouth_psnr": psnr(rebuilt_THWC, true_THWC, clip.mouth_HW),
        "rebuilt_background_psnr": psnr(rebuilt_THWC, clip.reference_HWC[None], still_HW),
        "rebuilt_sharpness": rebuilt_sharpness,
        "rebuilt_magnitude": rebuilt_magnitude,
        "background_share": float(still_HW.float().mean()),
        "background_psnr": psnr(made_THWC, clip.reference_HWC[None], still_HW),
        "sharpness": made_sharpness,
        "magnitude": made_magnitude,
        "talker_sharpness": relative_sharpness(made_THWC, rebuilt_THWC, ~still_HW)[0],
        "mouth_sharpness": relative_sharpness(made_THWC, rebuilt_THWC, clip.mouth_HW)[0],
        "color_shift": float(color_shift(made_THWC, clip.reference_HWC).mean()),
        "true_color_shift": float(color_shift(true_THWC, clip.reference_HWC).mean()),
        "motion": float(steps_between(made_THWC).mean() / steps_between(rebuilt_THWC).mean().clamp_min(1e-6)),
        "seam_jump": seam_jump(steps_between(made_THWC), new_frames),
    }


def relative_sharpness(frames_THWC: Tensor, others_THWC: Tensor, mask_HW: Tensor | None = None) -> tuple[float, float]:
    """Sharpness of some frames over that of others, by the Laplacian's variance and its magnitude; 1 is equal."""
    own, other = sharpness(frames_THWC, mask_HW), sharpness(others_THWC, mask_HW)
    variance, magnitude = (float(a_T.mean() / b_T.mean().clamp_min(1e-6)) for a_T, b_T in zip(own, other, strict=True))
    return variance, magnitude


def summarize(results: Sequence[ClipResult]) -> dict:
    """Mean, min and max of every number over the clips; the lag, and the control with another clip's truth, over all of them."""
    numbers = {name: [result.numbers[name] for result in results] for name in results[0].numbers}
    made, truth = ([result.tracks[kind][0] for result in results] for kind in ("made", "truth"))
    curves = torch.stack([lag_curve(made_T, truth_T) for made_T, truth_T in zip(made, truth, strict=True)])
    return {
        "clips": [{"name": result.name, **result.numbers} for result in results],
        "numbers": {name: {"mean": sum(v) / len(v), "min": min(v), "max": max(v)} for name, v in numbers.items()},
        "lag": best_lag(curves.mean(0)),
        "lag_curve": curves.mean(0).tolist(),
        "lags_within_one": sum(abs(lag) <= 1 for lag in numbers["lag"]),
        "shuffled": other_clip_correlation(made, truth),
        "shuffled_truth": other_clip_correlation(truth, truth),
    }


def other_clip_correlation(read: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Mean correlation of each clip's lips with the truth of every other clip: what unrelated speech gives."""
    pairs = [correlation(a_T, b_T) for i, a_T in enumerate(read) for j, b_T in enumerate(truth) if i != j]
    return sum(pairs) / max(1, len(pairs))
