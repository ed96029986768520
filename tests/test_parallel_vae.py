"""The VAE and the stream on several processes against one process. As a script, this file is one of those processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_parallel_dit import difference, start_processes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from livetalk_core.cli.end import leave
from livetalk_core.engine.denoiser import DiTDenoiser
from livetalk_core.engine.engine import BandSession
from livetalk_core.models import weights
from livetalk_core.models.convolution import fold_kernels
from livetalk_core.models.vae import CausalVAE, VAEConfig
from livetalk_core.parallel.bands import cut_bands
from livetalk_core.parallel.context import SequenceParallel
from livetalk_core.parallel.exchange import gather_parts
from livetalk_core.parallel.group import SequenceGroup, close_group, connect, init_group
from livetalk_core.parallel.vae import BandBorders, BandVAE, parallelize_vae
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.color import lab_stats, match_color
from livetalk_core.stream.session import Session, to_uint8
from livetalk_core.types import AudioWindow, Reference, StreamSettings

WORLD, SIZES, SOME_SIZES = 8, (2, 3, 4, 8), (3, 8)
pytestmark = pytest.mark.slow

PICTURES = {"tall": (9, 4), "wide": (4, 11), "small": (3, 5)}
"""Latent rows and columns. In a group of eight, three processes have no band of the small one."""
LIMIT, EXACT = 1e-5, 1e-10
"""Largest difference in float32, where the model's own rounding is 4e-6, and in float64, where only a mistake would show."""
STREAM_LIMIT, FLOAT32_LIMIT = 1e-4, 1e-3
"""Limits for the frames of three chunks. A ring sums attention in another order, and each process makes the audio keys of its own latent
frames only, in products of another shape. The DiT is in float32, where this changes latents by 3e-6; decoder, color matching and the
following chunks amplify it."""
STREAMS = [(2, 1, torch.float32), (1, 2, torch.float32), (2, 1, torch.float64)]
"""Degrees, and the type of the VAE."""
GOLDEN = Path(__file__).parent / "golden"
CPU = torch.device("cpu")


def small_vae(dtype: torch.dtype = torch.float32) -> CausalVAE:
    torch.manual_seed(0)
    return CausalVAE(VAEConfig(dim=8)).eval().to(dtype)


def sample(picture: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Latents of 3 latent frames, and 9 frames of video."""
    draw, (height, width) = torch.Generator().manual_seed(1), PICTURES[picture]
    latents, video = torch.randn(16, 3, height, width, generator=draw), torch.rand(3, 9, 8 * height, 8 * width, generator=draw)
    return latents.to(dtype), (video * 2 - 1).to(dtype)


@torch.no_grad()
def run_process(rank: int, folder: Path) -> None:
    """Every case in every group; process 0 writes the errors."""
    init_group(rank=rank, size=WORLD, init_method=f"file://{folder}/meet", device=CPU, ulysses_degree=8, ring_degree=1)
    errors: dict[str, float] = {}
    cases = [(picture, dtype) for picture in PICTURES for dtype in (torch.float32, torch.float64)]
    plain = {case: run_plain(*case) for case in cases} if rank == 0 else {}
    for size in SIZES:
        group = connect(range(size), 1, size, CPU)
        if group is not None:
            for case in cases:
                errors |= run_picture(group, *case, plain.get(case))
            if size in SOME_SIZES:
                errors |= run_work(group) | run_zero_halo(group, plain.get(("tall", torch.float32)))
    for ulysses, ring, dtype in STREAMS:
        group = connect(range(2), ulysses, ring, CPU)
        if group is not None:
            errors |= {f"stream {ulysses} x {ring} {dtype} {what}": error for what, error in run_streams(group, dtype).items()}
    if rank == 0:
        (folder / "errors.json").write_text(json.dumps(errors))
    close_group()


def run_plain(picture: str, dtype: torch.dtype) -> dict[str, Tensor]:
    vae, (latents, video) = small_vae(dtype), sample(picture, dtype)
    frames = torch.cat(list(vae.decode(latents)), dim=1)
    return {"encode": vae.encode(video), "decode": frames, "color": match_color(video, lab_stats(video[:, :1]), 1.0)}


def run_picture(group: SequenceGroup, picture: str, dtype: torch.dtype, plain: dict[str, Tensor] | None) -> dict[str, float]:
    """Errors of encode, decode (whole, and in groups for float32) and color; nothing on processes other than 0."""
    vae, (latents, video) = parallelize_vae(small_vae(dtype), group), sample(picture, dtype)
    banded = vae.banded(*PICTURES[picture])
    band = match_color(banded.bands.cut(video, group.rank, 8), lab_stats(video[:, :1]), 1.0, banded.stats)
    found = {"color": gather_parts(band, banded.bands.dim, banded.pixel_lengths, group.whole)}
    collected = banded.collect_frames(to_uint8(band))
    assert torch.equal(collected, to_uint8(found["color"])[: None if group.rank == 0 else 0]), "process 0 alone has the whole frames"
    for groups in ((), (1, 2)) if dtype == torch.float32 else ((1, 2),):
        found[f"encode {groups}"] = vae.encode(video, groups)
        found[f"decode {groups}"] = torch.cat(list(vae.decode(latents, groups)), dim=1)
    name = f"{group.size} {picture} {dtype}"
    return {} if plain is None else {f"{name} {what}": difference(x, plain[what.split()[0]]) for what, x in found.items()}


def run_work(group: SequenceGroup) -> dict[str, float]:
    """Convolution work of all processes over that of one, for encode and decode of the tall picture."""
    latents, video = sample("tall")
    spread = parallelize_vae(small_vae(), group).banded(*PICTURES["tall"])
    own = both_works(spread, latents, spread.bands.cut(video, group.rank, 8))
    total = gather_parts(own[None], 0, [1] * group.size, group.whole).sum(0)
    if group.rank:
        return {}
    alone = small_vae()
    fold_kernels(alone)
    encode, decode = (total / both_works(alone, latents, video)).tolist()
    return {f"{group.size} encode work": encode, f"{group.size} decode work": decode}


def both_works(vae, latents: Tensor, video: Tensor) -> Tensor:
    runs = (lambda: vae.encode(video), lambda: list(vae.decode(latents)))
    return torch.tensor([convolution_work(run) for run in runs], dtype=torch.float64)


def convolution_work(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "convolution" in str(op))


class ZeroBorders(BandBorders):
    def add_halo(self, x: Tensor, before: int, after: int) -> tuple[Tensor, tuple[int, int]]:
        edge = torch.zeros_like(x.narrow(self.bands.dim, 0, 1))
        wide = torch.cat([edge] * before + [x] + [edge] * after, self.bands.dim)
        return wide, (0, 1) if self.bands.dim == -2 else (1, 0)


def run_zero_halo(group: SequenceGroup, plain: dict[str, Tensor] | None) -> dict[str, float]:
    """The control: zeros in place of the neighbors' rows."""
    spread, (latents, video) = parallelize_vae(small_vae(), group).banded(*PICTURES["tall"]), sample("tall")
    spread.borders = ZeroBorders(spread.bands, group)
    part = torch.cat(list(spread.decode(latents)), dim=1)
    frames = gather_parts(part, spread.bands.dim, spread.pixel_lengths, group.whole)
    found = {"encode": spread.encode(spread.bands.cut(video, group.rank, 8)), "decode": frames}
    return {} if plain is None else {f"{group.size} {what} without borders": difference(found[what], plain[what]) for what in found}


def read(name: str) -> dict[str, Tensor]:
    with safe_open(GOLDEN / f"{name}.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


def golden_models():
    states = [{key.removeprefix("weights."): x for key, x in read(name).items() if key.startswith("weights.")} for name in ("dit", "vae")]
    return weights.load_dit(states[0], dtype=torch.float32, num_heads=4, text_len=16), weights.load_vae(states[1], dtype=torch.float32)


def run_streams(group: SequenceGroup, dtype: torch.dtype) -> dict[str, float]:
    """The three recorded chunks: in one process, in a session of whole frames, and in one of bands."""
    dit, vae = golden_models()
    fold_kernels(vae.to(dtype))
    alone = run_stream(Session, dit, vae, vae)
    dit.sequence = SequenceParallel(group, dit.config.num_heads)
    parallel = parallelize_vae(vae, group)
    streams = {"whole": run_stream(Session, dit, parallel, parallel)}
    streams["banded"] = run_stream(BandSession, dit, parallel.banded(4, 6), parallel)
    return {f"{kind} {what}": difference(found[what], alone[what]) for kind, found in streams.items() for what in alone}


def run_stream(kind: type[Session], dit, vae, whole_vae) -> dict[str, Tensor]:
    """Motion latents and color-matched frames of the golden stream."""
    recorded = read("stream")
    pixels_CHW = recorded["in.reference"][0, :, 0]
    reference = Reference(
        text_LD=recorded["in.text"],
        image_LD=recorded["in.clip"][0],
        cond_CTHW=recorded["out.condition"][0],
        first_CTHW=whole_vae.encode(pixels_CHW[:, None]),
        pixels_CHW=pixels_CHW,
    )
    noises = iter([recorded[f"in.noise.{chunk}.{draw}"] for chunk in range(3) for draw in ("init", *range(4))])
    plan = StreamPlan(width=48, height=32)
    session = kind(
        plan, DiTDenoiser(dit), vae, reference, StreamSettings(steps=4, shift=5.0, last_noise=1.0), lambda dtype: next(noises).to(dtype)
    )
    pieces, motion, match = [], [], session.matched
    session.matched = lambda piece_CTHW: pieces.append(match(piece_CTHW)) or pieces[-1]
    for i in range(3):
        window = AudioWindow(index=i, features_PTWSD=recorded[f"out.audio.{i}"], samples=torch.zeros(17920), num_valid=28)
        shown = torch.cat([piece.frames_THWC for piece in session.step(window)])
        motion.append(session.motion_CTHW)
    band = torch.cat(pieces, dim=1)
    video = gather_parts(band, vae.bands.dim, vae.pixel_lengths, vae.group.whole) if kind is BandSession else band
    if shown.shape[0]:
        assert torch.equal(shown, to_uint8(video[:, -28:]))
    return {"motion": torch.cat(motion, dim=1), "frames": video}


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("vae")
    start_processes(__file__, WORLD, folder)
    return json.loads((folder / "errors.json").read_text())


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("size", SIZES)
def test_a_group_encodes_decodes_and_matches_color_as_one_process_does(errors, size, picture):
    rounded, exact = (
        {name: error for name, error in errors.items() if name.startswith(f"{size} {picture} {dtype}")}
        for dtype in (torch.float32, torch.float64)
    )
    assert len(exact) == 3 and max(exact.values()) <= EXACT, exact
    assert len(rounded) == 5 and max(rounded.values()) <= LIMIT, rounded


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize("size", SOME_SIZES)
def test_no_convolution_is_computed_twice(errors, size, what):
    assert 1 <= errors[f"{size} {what} work"] <= 1.05


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize("size", SOME_SIZES)
def test_the_comparison_notices_zeros_in_place_of_halos(errors, size, what):
    assert errors[f"{size} {what} without borders"] > 100 * LIMIT


@torch.no_grad()
def test_the_comparison_notices_bands_that_merely_overlap():
    vae, (latents, _) = small_vae(), sample("tall")
    whole, overlapping = (torch.cat(list(vae.decode(part)), dim=1) for part in (latents, latents[:, :, :7]))
    assert difference(overlapping[:, :, :40], whole[:, :, :40]) > 100 * LIMIT


@pytest.mark.parametrize("kind", ["whole", "banded"])
@pytest.mark.parametrize(("ulysses", "ring", "dtype"), STREAMS)
def test_the_golden_stream_of_two_processes_is_that_of_one(errors, ulysses, ring, dtype, kind):
    name = f"stream {ulysses} x {ring} {dtype} {kind}"
    assert errors[f"{name} motion"] <= STREAM_LIMIT
    assert errors[f"{name} frames"] <= (FLOAT32_LIMIT if dtype == torch.float32 else STREAM_LIMIT)


@pytest.mark.parametrize(("height", "width", "size"), [(9, 4, 2), (4, 11, 3), (90, 52, 8), (52, 90, 7), (3, 5, 8), (4, 4, 1)])
def test_bands_cover_the_longer_side_once_and_differ_by_one(height, width, size):
    bands, picture = cut_bands(height, width, size), torch.arange(float(height * width)).view(height, width)
    assert torch.equal(torch.cat([bands.cut(picture, rank) for rank in range(size)], bands.dim), picture)
    filled = bands.lengths[: bands.active]
    assert bands.active == min(size, max(height, width)) and max(filled) - min(filled) <= 1
    assert all(bands.cut(picture, rank).shape == bands.size(rank) for rank in range(size))


def test_parallelizing_the_vae_leaves_the_state_dict_as_it_was():
    vae = small_vae()
    names = list(vae.state_dict())
    group = SequenceGroup(rank=0, size=1, ulysses_degree=1, ring_degree=1, device=CPU, whole=None, ulysses=None, ring=None)
    banded = parallelize_vae(vae, group).banded(4, 6)
    assert isinstance(banded, BandVAE) and list(vae.state_dict()) == names


if __name__ == "__main__":
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
    leave(0)
