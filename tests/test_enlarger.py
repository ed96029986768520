"""Frames at twice the side, with detail from the reference picture."""

from dataclasses import replace

import pytest
import torch
from made import small_nano

from livetalk_core.engine.enlarged import EnlargedVAE
from livetalk_core.engine.load import build_random
from livetalk_core.models import weights
from livetalk_core.models.enlarger import Enlarger, EnlargerConfig, double, halve, move
from livetalk_core.models.patch_vae import PatchVAE, PatchVAEConfig
from livetalk_core.presets import livetalk_14b, nano
from livetalk_core.stream.session import DECODE_GROUPS
from livetalk_core.types import StreamSettings

CPU = torch.device("cpu")
CONFIG = EnlargerConfig(width=16, blocks=1, fine_width=8, fine_blocks=1)


@pytest.fixture
def picture():
    """[3, 64, 96] with detail."""
    return torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def enlarger():
    torch.manual_seed(0)
    return Enlarger(CONFIG).eval().requires_grad_(False)


def test_an_untrained_enlarger_doubles_frames_and_adds_half_of_the_pictures_detail(enlarger, picture):
    frames = torch.rand(2, 3, 32, 48) * 2 - 1
    made = enlarger(frames, picture[None])
    assert torch.allclose(made.moved_BCHW, picture.expand(2, -1, -1, -1), atol=1e-5)
    detail = picture - double(halve(picture)[None])[0]
    assert torch.allclose(made.frames_BCHW, double(frames) + detail / 2, atol=1e-5)


@pytest.mark.parametrize(("share", "hatching"), [(-20.0, 0.0), (20.0, 0.3)])
def test_what_alternates_from_pixel_to_pixel_stays_only_where_the_picture_gives_the_detail(enlarger, picture, share, hatching):
    """The last layer's channels are those of 2 x 2 pixels of red, green, blue and the picture's share."""
    with torch.no_grad():
        enlarger.head.bias.copy_(torch.tensor([0.5, -0.1, -0.1, 0.5] * 3 + [share] * 4))
    gray = torch.zeros_like(picture)
    made = enlarger(halve(gray[None]), gray[None]).frames_BCHW
    steps = [made.diff(dim=axis).abs().max().item() / 2 for axis in (2, 3)]
    assert made.mean().item() == pytest.approx(0.2, abs=1e-4)
    assert steps == pytest.approx([hatching, hatching], abs=1e-4)


def test_one_picture_for_all_frames_is_as_one_for_each(enlarger, picture):
    torch.nn.init.normal_(enlarger.flow.weight, std=0.01)
    torch.nn.init.normal_(enlarger.head.weight, std=0.01)
    frames = torch.rand(3, 3, 32, 48) * 2 - 1
    once, each = enlarger(frames, picture[None]), enlarger(frames, picture.expand(3, -1, -1, -1))
    assert torch.equal(once.frames_BCHW, each.frames_BCHW)
    alone = torch.cat([enlarger(frame[None], picture[None]).frames_BCHW for frame in frames])
    assert torch.allclose(once.frames_BCHW, alone, atol=1e-4), "frames do not see each other"


@pytest.mark.parametrize("size", [(64, 96), (32, 48)])
def test_a_flow_moves_the_picture_by_its_share_of_the_half_side(size, picture):
    flow = torch.zeros(1, 2, 8, 12)
    flow[:, 0], flow[:, 1] = 2 * 6 / 96, -2 * 4 / 64
    moved = move(picture[None], flow, (64, 96))[0]
    assert torch.allclose(moved[:, 4:, :-6], picture[:, :-4, 6:], atol=1e-4), "6 pixels from the right, 4 from above"
    assert torch.allclose(moved[:, :4, :-6], picture[:, :1, 6:].expand(-1, 4, -1), atol=1e-4), "the edge repeats"
    assert move(picture[None], flow, size).shape == (1, 3, *size)


def test_half_precision_moves_as_far(picture):
    flow = torch.full((1, 2, 8, 12), 0.1)
    exact, half = (move(picture[None].to(dtype), flow.to(dtype), (64, 96)).float() for dtype in (torch.float32, torch.bfloat16))
    assert (exact - half).abs().mean() < 0.02


def test_with_an_enlarger_a_vae_has_twice_the_stride(enlarger, picture):
    torch.manual_seed(0)
    vae = PatchVAE(PatchVAEConfig(z_dim=8, width=8, blocks=1, fine_width=8, fine_blocks=1)).eval().requires_grad_(False)
    whole = EnlargedVAE(vae, enlarger, picture)
    assert (whole.temporal_stride, whole.spatial_stride) == (4, 16)
    video = torch.rand(3, 9, 64, 96) * 2 - 1
    latents = whole.encode(video, (1, 2))
    assert torch.equal(latents, vae.encode(halve(video), (1, 2))) and latents.shape == (8, 3, 4, 6)
    frames = torch.cat(list(whole.decode(latents, DECODE_GROUPS)), dim=1)
    assert frames.shape == video.shape and frames.abs().max() <= 1
    assert torch.allclose(frames, torch.cat(list(whole.decode(latents, (1, 1, 1))), dim=1), atol=1e-5), "the same for any groups"


def test_sizes_of_the_larger_bucket_are_made_at_half_the_size():
    small, large = nano().plan(144, 112), nano().plan(288, 224)
    assert small.latent_shape == large.latent_shape == (64, 9, 14, 18)
    assert (large.width, large.height, large.size_multiple) == (288, 224, 32)
    assert nano().plan(512, 256).latent_shape == (64, 9, 16, 32), "so are larger ones"
    without = nano().without_enlarger()
    assert (without.bucket, without.made_for, without.plan(288, 224).latent_shape) == ("128", ("128",), (64, 9, 28, 36))
    assert without.without_enlarger() == without and livetalk_14b().without_enlarger() == livetalk_14b()


def test_a_stream_at_twice_the_size_has_the_same_latents(picture):
    engine = build_random(small_nano(), CPU, torch.float32)
    large = torch.nn.functional.interpolate(picture[None], (256, 256))[0]
    found = {}
    for name, pixels in (("small", halve(large)), ("large", large)):
        found[name] = []
        stream = engine.open(engine.reference(pixels), StreamSettings(steps=1, color_strength=0), on_latents=found[name].append)
        frames = torch.cat([chunk.frames_THWC for chunk in (*stream.push(torch.zeros(17920)), *stream.finish())])
        assert frames.shape == (28, *pixels.shape[1:], 3)
    assert torch.allclose(found["small"][0], found["large"][0], atol=1e-5), "of the first chunk, which begins with the picture"


def test_decoded_latents_are_enlarged_with_their_picture_and_small_without(picture):
    engine = build_random(small_nano(), CPU, torch.float32)
    latents = torch.randn(64, 3, 16, 16)
    shapes = [[piece.shape[-1] for piece in engine.decode(latents, given)] for given in (None, torch.zeros(3, 256, 256))]
    assert shapes == [[128], [256]]


def test_a_file_of_another_model_is_told_by_its_tensors(enlarger):
    state = enlarger.state_dict()
    again = weights.load_enlarger(state, dtype=torch.float32)
    assert again.config == CONFIG and all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())
    with pytest.raises(ValueError, match="not the weights of the enlarger: flow.weight missing; choose enlarger.safetensors of the model"):
        weights.load_enlarger({"merge.weight": state["merge.weight"]}, dtype=torch.float32)


def test_without_its_enlarger_a_model_says_which_sizes_are_left():
    preset = replace(nano(), name="mine").without_enlarger()
    with pytest.raises(ValueError, match="size 256x256 is not one that mine was trained on, .*; use 128x128, .*, or take another"):
        preset.check_size(256, 256, "or take another")
    nano().check_size(320, 192, "")
    for size in ((192, 192), (320, 320)):
        with pytest.raises(ValueError, match="is not one that nano was trained on"):
            nano().check_size(*size, "")
