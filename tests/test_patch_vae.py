"""The small VAE: its properties, and several processes against one. As a script, this file is one of those processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from test_parallel_dit import difference, start_processes
from torch import Tensor

from livetalk_core.cli.end import leave
from livetalk_core.models.borders import WHOLE
from livetalk_core.models.patch_vae import PatchVAE, PatchVAEConfig, fold, unfold
from livetalk_core.models.weights import load_vae, patch_vae_config_from, shapes_of
from livetalk_core.parallel.exchange import gather_parts
from livetalk_core.parallel.group import SequenceGroup, close_group, connect, init_group
from livetalk_core.parallel.vae import parallelize_vae
from livetalk_core.presets import nano

CONFIG = PatchVAEConfig(z_dim=6, width=10, blocks=3, fine_width=8, fine_blocks=2)
WORLD, SIZES = 4, (2, 3, 4)
PICTURES = {"tall": (9, 4), "wide": (4, 7), "small": (2, 3)}
"""Latent rows and columns: bands of unequal length, and in a group of four a process without one."""
LIMIT = 1e-5
CPU = torch.device("cpu")


def small_vae() -> PatchVAE:
    torch.manual_seed(0)
    return PatchVAE(CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> PatchVAE:
    return small_vae()


def video(frames: int = 17, height: int = 2, width: int = 3) -> Tensor:
    """Of so many latents' size."""
    return torch.rand(3, frames, 8 * height, 8 * width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def latents(frames: int = 5, height: int = 2, width: int = 3) -> Tensor:
    return torch.randn(6, frames, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("frames, expected", [(1, 1), (5, 2), (33, 9)])
def test_frames_and_latents_count_as_4k_plus_1(vae, frames, expected):
    z = vae.encode(video(frames))
    assert z.shape == (6, expected, 2, 3)
    assert next(vae.decode(z)).shape == (3, frames, 16, 24)


@pytest.mark.parametrize("groups", [(1,), (1, 1, 3), (2, 1), (3,), (4, 1), (5,), (9,)])
def test_groups_of_any_size_give_the_same_pixels_and_latents(vae, groups):
    (whole,) = vae.decode(latents())
    pieces = list(vae.decode(latents(), groups))
    assert pieces[0].shape[1] == 4 * min(groups[0], 5) - 3
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-6)
    assert torch.allclose(vae.encode(video(), groups), vae.encode(video()), atol=1e-6)


def test_groups_without_their_past_give_another_result(vae):
    (whole,) = vae.decode(latents())
    alone = torch.cat([next(vae.decode(latents()[:, i : i + 1])) for i in range(5)], dim=1)
    assert alone.shape[1] == 5 and not torch.allclose(alone, whole[:, [0, 1, 5, 9, 13]], atol=1e-3)


@pytest.mark.parametrize("at", range(5))
def test_no_pixel_depends_on_later_frames(vae, at):
    changed = latents()
    changed[:, at] += 1
    (a,), (b,) = vae.decode(latents()), vae.decode(changed)
    seen, first = (a != b).flatten(2).any(2).any(0), max(0, 4 * at - 3)
    assert not seen[:first].any() and seen[first:].any()


def test_a_latent_depends_on_its_own_frames_only(vae):
    for frame in range(17):
        changed = video()
        changed[:, frame] = 0
        seen = (vae.encode(changed) != vae.encode(video())).flatten(2).any(2).any(0)
        assert seen.nonzero().tolist() == [[(frame + 3) // 4]]


def test_the_decoder_adds_detail_to_a_linear_picture(vae):
    """Without detail the decoder is one matrix per block of pixels."""
    quiet = small_vae()
    quiet.decoder.head.weight.zero_()
    quiet.decoder.head.bias.zero_()
    z, layer = latents(), quiet.decoder.picture.rest
    (frames,) = quiet.decode(z)
    block_CTHW = (layer.weight[:, :, 0, 0, 0] @ z[:, 3, 1, 2] + layer.bias).view(3, 4, 8, 8)
    assert torch.allclose(frames[:, 9:13, 8:16, 16:24], block_CTHW.clamp(-1, 1), atol=1e-6)
    assert not torch.allclose(next(vae.decode(z)), frames, atol=1e-3), "the control"


def test_blocks_of_pixels_fold_to_channels_and_back():
    x = torch.arange(2 * 3 * 8 * 16 * 24.0).view(2, 3, 8, 16, 24)
    folded = fold(x, 4, 8)
    assert torch.equal(unfold(folded, 4, 8), x)
    assert torch.equal(folded[1, :, 1, 0, 2].view(3, 4, 8, 8), x[1, :, 4:8, :8, 16:24])


def test_pixels_stay_in_range(vae):
    (out,) = vae.decode(20 * latents())
    assert out.abs().max() == 1.0


def test_half_precision_is_kept(vae):
    half = small_vae().bfloat16()
    assert half.encode(video(5)).dtype == next(half.decode(latents())).dtype == torch.bfloat16
    assert torch.allclose(half.encode(video(5)).float(), vae.encode(video(5)), atol=0.03)


@pytest.mark.parametrize("config", [CONFIG, nano().vae])
def test_the_sizes_are_read_from_the_tensors(config):
    with torch.device("meta"):
        state = PatchVAE(config).state_dict()
    assert patch_vae_config_from(shapes_of(state)) == config


def test_the_loader_knows_the_small_vae_by_its_tensors(vae):
    loaded = load_vae(vae.state_dict(), dtype=torch.float32)
    assert isinstance(loaded, PatchVAE) and torch.equal(loaded.encode(video()), vae.encode(video()))
    with pytest.raises(ValueError, match="the small VAE: decoder.head.bias missing"):
        load_vae({name: tensor for name, tensor in vae.state_dict().items() if name != "decoder.head.bias"}, dtype=torch.float32)


@torch.no_grad()
def run_process(rank: int, folder: Path) -> None:
    """Every picture in every group; process 0 writes the errors."""
    torch.set_num_threads(1)
    init_group(rank=rank, size=WORLD, init_method=f"file://{folder}/meet", device=CPU, ulysses_degree=WORLD, ring_degree=1)
    errors: dict[str, float] = {}
    for size in SIZES:
        group = connect(range(size), 1, size, CPU)
        if group is not None:
            for picture in PICTURES:
                errors |= {f"{size} {picture} {what}": error for what, error in run_picture(group, *PICTURES[picture]).items()}
    if rank == 0:
        (folder / "errors.json").write_text(json.dumps(errors))
    close_group()


def run_picture(group: SequenceGroup, height: int, width: int) -> dict[str, float]:
    """Errors of encode and decode in several groups of latent frames, and of a decode whose borders are left at zero."""
    plain, spread = small_vae(), parallelize_vae(small_vae(), group)
    frames, z = video(13, height, width), latents(4, height, width)
    expected = {"encode": plain.encode(frames), "decode": next(plain.decode(z))}
    errors = {}
    for groups in ((), (1,), (1, 2), (3, 1)):
        errors[f"encode {groups}"] = difference(spread.encode(frames, groups), expected["encode"])
        errors[f"decode {groups}"] = difference(torch.cat(list(spread.decode(z, groups)), dim=1), expected["decode"])
    wrong = parallelize_vae(small_vae(), group).banded(height, width)
    wrong.borders = WHOLE
    part = torch.cat(list(wrong.decode(z)), dim=1)
    frames = gather_parts(part, wrong.bands.dim, wrong.pixel_lengths, group.whole)
    return errors | {"without borders": difference(frames, expected["decode"])}


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("patch_vae")
    start_processes(__file__, WORLD, folder)
    return json.loads((folder / "errors.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("size", SIZES)
def test_a_group_encodes_and_decodes_as_one_process_does(errors, size, picture):
    found = {name: error for name, error in errors.items() if name.startswith(f"{size} {picture}")}
    assert found.pop(f"{size} {picture} without borders") > 100 * LIMIT, "the control"
    assert len(found) == 8 and max(found.values()) <= LIMIT, found


def test_parallelizing_the_small_vae_leaves_the_state_dict_as_it_was():
    vae = small_vae()
    names = list(vae.state_dict())
    group = SequenceGroup(rank=0, size=1, ulysses_degree=1, ring_degree=1, device=CPU, whole=None, ulysses=None, ring=None)
    assert parallelize_vae(vae, group).spatial_stride == 8 and list(vae.state_dict()) == names


if __name__ == "__main__":
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
    leave(0)
