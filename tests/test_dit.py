"""The DiT's own properties; its numbers against the published system's are in test_parity.py."""

from dataclasses import replace

import pytest
import torch

from livetalk_core.models import attention as kernels
from livetalk_core.models.audio_attention import attend_per_frame, group_slots
from livetalk_core.models.dit import AudioDiT, token_masks
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.layers import KeyValue
from livetalk_core.models.rope import Grid, rope_table, rotate
from livetalk_core.models.speakers import reference_likeness
from livetalk_core.presets import tiny

CONFIG = tiny().dit


@pytest.fixture(scope="module")
def dit():
    torch.manual_seed(0)
    return AudioDiT(CONFIG).eval().requires_grad_(False)


def inputs(batch=1, people=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "latent": torch.randn(batch, 16, 9, 4, 6, generator=g),
        "condition": torch.randn(batch, 20, 9, 4, 6, generator=g),
        "timestep": torch.full((batch,), 833.3333),
        "text": torch.randn(batch, 9, CONFIG.text_dim, generator=g),
        "image": torch.randn(batch, 257, CONFIG.image_dim, generator=g),
        "audio": torch.randn(batch, people, 33, 5, CONFIG.audio_dim, generator=g),
    }


def run(dit, x, masks=None):
    context, audio = dit.embed_context(x["text"], x["image"]), dit.embed_audio(x["audio"])
    return dit(x["latent"], x["condition"], dit.embed_time(x["timestep"]), context, audio, masks)


def test_the_14b_model_has_the_published_keys_and_parameters():
    with torch.device("meta"):
        state = AudioDiT(DiTConfig()).state_dict()
    assert len(state) == 1633
    assert sum(tensor.numel() for tensor in state.values()) == 18_882_046_784
    audio = [name for name in state if "audio" in name or "norm_x" in name]
    assert len(audio) == 330 and sum(state[name].numel() for name in audio) == 2_487_168_000
    expected = {
        "patch_embedding.weight": (5120, 36, 1, 2, 2),
        "time_projection.1.weight": (30720, 5120),
        "head.modulation": (1, 2, 5120),
        "img_emb.proj.3.weight": (5120, 1280),
        "audio_proj.proj1_vf.weight": (512, 73728),
        "audio_proj.proj3.weight": (24576, 512),
        "blocks.39.modulation": (1, 6, 5120),
        "blocks.39.ffn.2.weight": (5120, 13824),
        "blocks.0.cross_attn.norm_k_img.weight": (5120,),
        "blocks.0.audio_cross_attn.kv_linear.weight": (10240, 768),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected


def test_a_batch_is_the_same_as_its_items_alone(dit):
    x = inputs(batch=2)
    x["timestep"] = torch.tensor([937.5, 625.0])
    items = [run(dit, {name: value[i : i + 1] for name, value in x.items()}) for i in range(2)]
    assert torch.allclose(run(dit, x), torch.cat(items), atol=1e-5)
    assert not torch.allclose(items[0], items[1], atol=1e-2), "control: the items differ"


def test_the_published_model_predicts_the_velocity(dit):
    answer, x, condition = (torch.randn(16, 2, 4, 6) for _ in range(3))
    assert dit.to_velocity(answer, x, 0.5, condition) is answer


def test_each_input_matters(dit):
    plain, x = run(dit, inputs()), inputs()
    for name, value in inputs(seed=1).items():
        if name != "timestep":
            assert not torch.allclose(run(dit, {**x, name: value}), plain, atol=1e-3), name
    assert not torch.allclose(run(dit, {**x, "timestep": torch.tensor([625.0])}), plain, atol=1e-3)


def test_sound_reaches_its_own_latent_frame_directly(dit):
    """Without self-attention, changing the audio of frames 13..16 (latent frame 4) changes only that latent frame."""
    quiet = AudioDiT(CONFIG).eval().requires_grad_(False)
    quiet.load_state_dict(dit.state_dict())
    for block in quiet.blocks:
        block.self_attn.o.weight.zero_()
    x, y = inputs(), inputs()
    y["audio"][:, :, 14:16, 2] += 1.0
    difference = (run(quiet, x) - run(quiet, y)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[4] > 1e-3 and difference[[0, 1, 2, 3, 5, 6, 7, 8]].max() == 0
    assert (run(dit, x) - run(dit, y)).abs().amax(dim=(0, 1, 3, 4))[0] > 0, "control: self-attention spreads it"


def test_window_slots_of_a_latent_frame_are_taken_in_the_published_order():
    frames, slots = torch.meshgrid(torch.arange(8), torch.arange(5), indexing="ij")
    named = (10 * frames + slots).float().view(1, 1, 8, 5, 1)
    assert group_slots(named, 5, 4)[0, 0].tolist() == [[0, 1, 2, 12, 22, 32, 33, 34], [40, 41, 42, 52, 62, 72, 73, 74]]


@pytest.mark.parametrize("first, length", [(0, 24), (3, 11), (6, 6), (5, 2), (13, 11)])
def test_tokens_of_partial_frames_attend_to_their_own_frames_audio(first, length):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 24, 3, 8, generator=g)
    audio = KeyValue(torch.randn(8, 5, 3, 8, generator=g), torch.randn(8, 5, 3, 8, generator=g))
    grid = Grid(torch.empty(0), torch.empty(0), tokens_per_frame=6)
    whole = attend_per_frame(q, audio, grid)
    part = attend_per_frame(q[:, first : first + length], audio, grid._replace(first=first))
    assert torch.allclose(part, whole[:, first : first + length], atol=1e-6)
    wrong = attend_per_frame(q[:, first : first + length], audio, grid._replace(first=first + 6)) if first + length <= 18 else None
    assert wrong is None or not torch.allclose(wrong, part, atol=1e-3), "control: another frame's sound is another answer"


def test_rotation_in_real_numbers_equals_multiplication_by_unit_complex_numbers():
    x = torch.randn(1, 24, 2, 12, dtype=torch.float64)
    cos, sin = rope_table(2, 3, 4, 12, torch.device("cpu"))
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * torch.complex(cos.double(), sin.double())[:, None]).flatten(-2)
    assert torch.allclose(rotate(x, cos, sin).double(), turned, atol=1e-6)


def test_rope_splits_pairs_among_frame_row_and_column_as_published():
    cos, _ = rope_table(3, 4, 5, 128, torch.device("cpu"))
    assert cos.shape == (60, 64)
    by_place = cos.view(3, 4, 5, 64)
    assert torch.equal(by_place[:, :1, :1, :22].expand(-1, 4, 5, -1), by_place[..., :22]), "22 pairs turn with the frame alone"
    assert torch.equal(by_place[:1, :, :1, 22:43].expand(3, -1, 5, -1), by_place[..., 22:43]), "21 with the row"
    assert torch.equal(by_place[:1, :1, :, 43:].expand(3, 4, -1, -1), by_place[..., 43:]), "21 with the column"


def test_two_speakers_each_follow_their_own_voice(dit):
    masks = torch.zeros(3, 8, 12)
    masks[0, :, :5], masks[1, :, 7:], masks[2, :, 5:7] = 1, 1, 1
    x = inputs(people=2)
    swapped = {**x, "audio": x["audio"].flip(1)}
    assert not torch.allclose(run(dit, x, masks), run(dit, swapped, masks), atol=1e-4)
    assert torch.allclose(run(dit, swapped, masks[[1, 0, 2]]), run(dit, x, masks), atol=0.2), "both swapped is nearly the same"


def test_likeness_equals_that_of_the_full_attention_map():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 12, 4, 8, generator=g), torch.randn(1, 6, 4, 8, generator=g)
    masks = (torch.rand(3, 6, generator=g) > 0.4).float()
    weights = torch.einsum("blnk,bsnk->bnls", q, k).div(8**0.5).softmax(-1)
    plain = torch.stack([(weights * mask).sum(-1) / mask.sum() for mask in masks], dim=1).mean(2)
    assert torch.allclose(reference_likeness(q, k, masks), plain, atol=1e-6)
    odd = [torch.cat([x, torch.randn_like(x[:, :, :1])], dim=2) for x in (q, k)]
    assert torch.allclose(reference_likeness(*odd, masks), plain, atol=1e-6), "as published: a last odd head is left out"


def test_masks_of_any_size_become_token_masks():
    mask = torch.zeros(3, 64, 96)
    mask[0, :32, :48] = 0.5
    tokens = token_masks(mask, (4, 6), 2).view(3, 2, 3)
    assert tokens[0].tolist() == [[1, 1, 0], [0, 0, 0]]


def test_half_precision_stays_near_float32(dit):
    half = AudioDiT(CONFIG).eval().requires_grad_(False)
    half.load_state_dict(dit.state_dict())
    half.bfloat16()
    out = run(half, inputs())
    assert out.dtype == torch.float32
    assert (out - run(dit, inputs())).abs().max() < 0.15


def test_attention_with_gradients_in_half_precision_equals_attention_without():
    """On a CPU it uses another code path."""
    q, k, v = (torch.randn(2, n, 4, 8, generator=torch.Generator().manual_seed(n)) for n in (5, 7, 7))
    halves = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    found = kernels.attention_sdpa(*halves)
    weights_BNLM = (torch.einsum("blnk,bmnk->bnlm", q, k) / 8**0.5).softmax(-1)
    assert found.shape == q.shape and found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), torch.einsum("bnlm,bmnk->blnk", weights_BNLM, v), atol=0.03)
    found.float().square().sum().backward()
    singles = [x.clone().requires_grad_() for x in (q, k, v)]
    kernels.attention_sdpa(*singles).square().sum().backward()
    for half, single in zip(halves, singles, strict=True):
        assert (half.grad.float() - single.grad).norm() < 0.03 * single.grad.norm()


@torch.no_grad()
def test_the_patch_embedding_rounds_once_in_half_precision():
    """Against float64. Latents and condition embedded apart would be rounded before and after their sum: an error of 0.3 %."""
    torch.manual_seed(0)
    dit = AudioDiT(replace(tiny().dit, dim=128, num_heads=4)).eval()
    latent, condition = torch.randn(1, 16, 3, 16, 16).bfloat16(), torch.randn(1, 20, 3, 16, 16).bfloat16()
    dit.bfloat16()
    layer, seen = dit.patch_embedding, []
    dit.run_blocks = lambda x_BLD, *inputs, **rest: seen.append(x_BLD) or x_BLD[..., :64].float()
    dit(latent, condition, None, [], [])
    exact = torch.nn.functional.conv3d(
        torch.cat([latent, condition], 1).double(), layer.weight.double(), layer.bias.double(), stride=layer.stride
    )
    error = (seen[0].double() - exact.flatten(2).transpose(1, 2)).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.0025
