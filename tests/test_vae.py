"""The VAE's own properties; its numbers against the published system's are in test_parity.py."""

import pytest
import torch

from livetalk_core.models.vae import CausalVAE, VAEConfig, fit_groups
from livetalk_core.presets import tiny


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return CausalVAE(tiny().vae).eval().requires_grad_(False)


def video(frames=17):
    return torch.rand(3, frames, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


def latents(frames=5):
    return torch.randn(16, frames, 2, 3, generator=torch.Generator().manual_seed(0))


def test_the_published_vae_has_its_keys_and_parameters():
    with torch.device("meta"):
        state = CausalVAE(VAEConfig()).state_dict()
    assert len(state) == 194
    assert sum(tensor.numel() for tensor in state.values()) == 126_892_531
    expected = {
        "encoder.downsamples.5.time_conv.weight": (192, 192, 3, 1, 1),
        "encoder.downsamples.6.shortcut.weight": (384, 192, 1, 1, 1),
        "decoder.middle.1.to_qkv.weight": (1152, 384, 1, 1),
        "decoder.upsamples.4.residual.2.weight": (384, 192, 3, 3, 3),
        "decoder.upsamples.7.time_conv.weight": (768, 384, 3, 1, 1),
        "decoder.head.2.weight": (3, 96, 3, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected


@pytest.mark.parametrize("groups", [(1,), (1, 1, 3), (2, 1), (3,), (4, 1), (5,), (9,)])
def test_decoding_in_groups_of_any_size_gives_the_same_pixels(vae, groups):
    (whole,) = vae.decode(latents())
    assert torch.allclose(torch.cat(list(vae.decode(latents(), groups)), dim=1), whole, atol=1e-5)


@pytest.mark.parametrize("groups", [(1,), (2, 1), (1, 3), (5,)])
def test_encoding_in_groups_of_any_size_gives_the_same_latents(vae, groups):
    assert torch.allclose(vae.encode(video(), groups), vae.encode(video()), atol=1e-5)


def test_groups_without_their_past_give_another_result(vae):
    (whole,) = vae.decode(latents())
    alone = torch.cat([next(vae.decode(latents()[:, i : i + 1])) for i in range(5)], dim=1)
    assert alone.shape[1] == 5 and not torch.allclose(alone, whole[:, [0, 1, 5, 9, 13]], atol=1e-2)


def test_the_first_frames_are_yielded_before_the_rest_is_decoded(vae):
    pieces = vae.decode(latents(), (1, 4))
    first = next(pieces)
    assert first.shape == (3, 1, 16, 24)
    assert next(pieces).shape == (3, 16, 16, 24)


def test_no_output_depends_on_later_frames(vae):
    changed = latents()
    changed[:, 3:] += 1
    a, b = next(vae.decode(latents())), next(vae.decode(changed))
    assert torch.equal(a[:, :9], b[:, :9]) and not torch.equal(a[:, 9:], b[:, 9:])
    frames = video()
    frames[:, 9:] = 0
    assert torch.allclose(vae.encode(frames)[:, :3], vae.encode(video())[:, :3], atol=1e-6)


@pytest.mark.parametrize("frames, expected", [(1, 1), (5, 2), (33, 9)])
def test_frames_and_latents_count_as_4k_plus_1(vae, frames, expected):
    z = vae.encode(video(frames))
    assert z.shape == (16, expected, 2, 3)
    assert next(vae.decode(z)).shape == (3, frames, 16, 24)


def test_pixels_stay_in_range(vae):
    (out,) = vae.decode(20 * latents())
    assert out.abs().max() == 1.0, "random weights at that strength leave the range, so the clamp is what holds it"


def test_groups_are_fitted_to_the_clip():
    assert fit_groups((), 9) == [9] and fit_groups((1, 4), 9) == [1, 4, 4] and fit_groups((2, 3), 9) == [2, 3, 3, 1]
    with pytest.raises(ValueError, match="must be counts of 1 or more"):
        fit_groups((0,), 9)


def test_half_precision_rounds_the_constants_as_published():
    half = CausalVAE(tiny().vae).bfloat16()
    expected = [0.35546875, 0.6875, 0.4296875, 0.376953125, 0.8203125, 0.5625, 0.3828125, 0.48046875]
    expected += [0.306640625, 0.462890625, 0.349609375, 0.64453125, 0.609375, 0.890625, 0.353515625, 0.5234375]
    assert (1 / half.std.bfloat16()).flatten().tolist() == expected
    assert half.encode(video(5)).dtype == torch.bfloat16


def test_scale_inverts_unscale(vae):
    raw = vae.config.unscale(latents())
    assert torch.allclose(vae.config.scale(raw), latents(), atol=1e-6)
    assert torch.allclose(raw[0], latents()[0] * 2.8184 - 0.7571, atol=1e-5), "the first channel's published constants"
