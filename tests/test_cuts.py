"""Every saving in DiT and VAE against the plain computation: same numbers, and counted work at 14B size (720 x 416)."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from livetalk_core.engine.denoiser import PLAIN, Cuts, DiTDenoiser, absorbed_bytes
from livetalk_core.models.audio_attention import AudioAttention, attend_absorbed, attend_per_frame, multiply_fp32
from livetalk_core.models.convolution import CausalConv3d, fold_kernels, lay_channels_last
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.layers import KeyValue, heads
from livetalk_core.models.rope import Grid
from livetalk_core.models.vae import CausalVAE, VAEConfig
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import tiny
from livetalk_core.types import AudioWindow, Reference

TIMES = (1.0, 0.9375, 0.8333333, 0.625)


def inputs(config: DiTConfig, plan: StreamPlan, device="cpu", seed=0, dtype=torch.float32):
    """A reference and two windows of random numbers."""
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=g) if device == "cpu" else torch.empty(*shape, device=device)  # noqa: E731
    c, t, h, w = plan.latent_shape
    reference = Reference(
        text_LD=make(25, config.text_dim),
        image_LD=make(257, config.image_dim),
        cond_CTHW=make(20, t, h, w),
        first_CTHW=make(c, 1, h, w),
        pixels_CHW=make(3, 16, 16),
    )
    window = [
        AudioWindow(index=i, features_PTWSD=make(1, 33, 5, 1, config.audio_dim), samples=torch.zeros(1), num_valid=28) for i in range(2)
    ]
    return reference, window, make(c, t, h, w)


@pytest.fixture(scope="module")
def dit():
    torch.manual_seed(0)
    return AudioDiT(replace(tiny().dit, text_len=512)).eval().requires_grad_(False)


PLAN = StreamPlan(width=48, height=32)


def x0(dit, cuts, motion=2, seed=0):
    reference, (window, _), x = inputs(dit.config, PLAN, seed=seed)
    return DiTDenoiser(dit, TIMES, cuts)(x, 0.9375, reference, window, motion)


@pytest.mark.parametrize(
    "cuts",
    [replace(PLAIN, absorb_audio=True), replace(PLAIN, merge_padding=True), replace(PLAIN, skip_motion=True), Cuts()],
    ids=["absorb_audio", "merge_padding", "skip_motion", "all"],
)
def test_a_saving_changes_the_result_by_rounding_only(dit, cuts):
    error = (x0(dit, cuts) - x0(dit, PLAIN))[:, 2:].abs().max()
    assert error <= 1e-5
    assert (x0(dit, PLAIN) - x0(dit, PLAIN, seed=1))[:, 2:].abs().max() > 0.1, "control: another input is another result"


def test_only_motion_frames_are_skipped(dit):
    cut, plain = x0(dit, replace(PLAIN, skip_motion=True)), x0(dit, PLAIN)
    assert (cut - plain)[:, :2].abs().max() > 1e-3, "they were skipped"
    assert torch.equal(x0(dit, Cuts(), motion=0)[:, :2].isfinite(), torch.ones(16, 2, 4, 6, dtype=torch.bool))


def test_padding_rows_counted_once_would_give_another_result(dit):
    reference, (window, _), x = inputs(dit.config, PLAN)
    denoiser = DiTDenoiser(dit, TIMES, replace(PLAIN, merge_padding=True))
    right = denoiser(x, 0.9375, reference, window, 0)
    (batch,) = denoiser.batches
    batch.context = [keys._replace(text_bias_M=None) for keys in batch.context]
    assert (denoiser(x, 0.9375, reference, window, 0) - right).abs().max() > 1e-4


@pytest.mark.parametrize("first, length", [(0, 24), (3, 11), (13, 11)])
def test_absorbed_audio_attention_equals_the_plain_one_also_for_partial_frames(dit, first, length):
    layer = dit.blocks[0].audio_cross_attn
    g = torch.Generator().manual_seed(0)
    audio = layer.keys(torch.randn(2, 4, 5, dit.config.audio_width, generator=g), 1)
    x, grid = torch.randn(2, length, dit.config.dim, generator=g), Grid(torch.empty(0), torch.empty(0), 6, first)
    plain = layer.proj(attend_per_frame(heads(layer.q_linear(x), layer.num_heads), KeyValue(*audio), grid).flatten(2))
    absorbed = attend_absorbed(x, layer.absorb(audio, 2), grid, layer.num_heads) + layer.proj.bias
    assert (absorbed - plain).abs().max() <= 1e-5


@pytest.mark.parametrize("deviation", [1, 16])
def test_absorbed_audio_attention_in_bfloat16_is_no_less_exact_than_the_plain_one(deviation):
    """Against float64, for scores of two sizes: large ones lose the most when they are rounded before the softmax."""
    layer, x, tokens = loud_layer(deviation)
    exact = AudioAttention(LOUD).requires_grad_(False).double()
    exact.load_state_dict(layer.state_dict())
    right = plain_audio(exact, x.double(), tokens.double())
    absorbed = layer(x, layer.absorb(layer.keys(tokens, 1), 1), Grid(torch.empty(0), torch.empty(0), 256), None)
    assert relative_error(absorbed, right) <= relative_error(plain_audio(layer, x, tokens), right)


LOUD = DiTConfig(dim=512, num_heads=4)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


def loud_layer(deviation: float) -> tuple[AudioAttention, torch.Tensor, torch.Tensor]:
    """An audio attention in bfloat16 whose scores have this standard deviation, with a frame's tokens and its audio tokens."""
    torch.manual_seed(0)
    layer = AudioAttention(LOUD).requires_grad_(False).bfloat16()
    x, tokens = torch.randn(1, 256, LOUD.dim).bfloat16(), torch.randn(1, 1, LOUD.audio_tokens, LOUD.audio_width).bfloat16()
    q, k = heads(layer.q_linear(x), 4).float(), layer.keys(tokens, 1).k_BMNK.float()
    factor = deviation / (torch.einsum("blnk,bmnk->bnlm", q, k) * 128**-0.5).std()
    layer.q_linear.weight.mul_(factor)
    layer.q_linear.bias.mul_(factor)
    return layer, x, tokens


def plain_audio(layer: AudioAttention, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return layer(x, layer.keys(tokens, 1), Grid(torch.empty(0), torch.empty(0), 256), None)


def test_on_cuda_scores_in_float32_come_from_one_product():
    """Its shape and type, on fake tensors: no copy of the keys in float32."""
    with FakeTensorMode():
        a, b = torch.empty(1, 2, 3, 8, device="cuda", dtype=torch.bfloat16), torch.empty(1, 2, 5, 8, device="cuda", dtype=torch.bfloat16)
        scores = multiply_fp32(a, b.transpose(-1, -2))
    assert scores.shape == (1, 2, 3, 5) and scores.dtype == torch.float32


def test_absorbed_keys_take_as_much_memory_as_counted(dit):
    reference, (window, _), x = inputs(dit.config, PLAN)
    denoiser = DiTDenoiser(dit, TIMES)
    denoiser(x, 0.9375, reference, window, 2)
    held = sum(keys.keys_BTND.nbytes + keys.values_BTND.nbytes for keys in denoiser.batches[0].audio)
    assert held == absorbed_bytes(dit.config, 9, torch.float32)
    assert absorbed_bytes(DiTConfig(), 9, torch.bfloat16) == pytest.approx(9.4e9, rel=0.01)


def test_two_speakers_are_not_absorbed(dit):
    reference, (window, _), x = inputs(dit.config, PLAN)
    masks = torch.eye(3)[:, :, None].repeat(1, 1, 2)
    reference = replace(reference, speaker_masks_KHW=masks)
    two = replace(window, features_PTWSD=window.features_PTWSD.repeat(2, 1, 1, 1, 1))
    results = [DiTDenoiser(dit, TIMES, cuts)(x, 0.9375, reference, two, 2) for cuts in (Cuts(), PLAIN)]
    assert (results[0] - results[1]).abs().max() <= 1e-5


class Counted:
    """TFLOP of the calls of a denoiser at the 14B model's size, counted on the meta device."""

    def __init__(self, cuts):
        with torch.device("meta"):
            self.dit = AudioDiT(DiTConfig()).requires_grad_(False)
        self.reference, self.windows, self.x = inputs(DiTConfig(), StreamPlan(width=720, height=416), device="meta")
        self.denoiser = DiTDenoiser(self.dit, TIMES, cuts)

    def call(self, t=1.0, window=0) -> float:
        with FlopCounterMode(display=False) as counter:
            self.denoiser(self.x, t, self.reference, self.windows[window], 2)
        return counter.get_total_flops() / 1e12


@pytest.fixture(scope="module")
def plain():
    return Counted(PLAIN)


@pytest.fixture(scope="module")
def cut():
    return Counted(Cuts())


def test_a_step_of_the_14b_model_takes_at_most_355_tflop(plain, cut):
    everything = plain.dit
    with FlopCounterMode(display=False) as counter:
        context = everything.embed_context(plain.reference.text_LD[None], plain.reference.image_LD[None])
        audio = everything.embed_audio(plain.windows[0].features_PTWSD[None].flatten(-2))
        time = everything.embed_time(torch.empty(1, device="meta"))
        everything(plain.x[None], plain.reference.cond_CTHW[None], time, context, audio)
    assert counter.get_total_flops() / 1e12 == pytest.approx(397.1, abs=0.6), "the published form: everything in every step"
    cut.call()
    assert cut.call(0.9375) <= 355


def test_constant_work_is_done_only_in_a_streams_first_step(cut):
    cut.call()
    steps = [cut.call(t) for t in TIMES]
    assert max(steps) == min(steps), "no step embeds its time"
    per_chunk = cut.call(window=1) - steps[0]
    assert 0 < per_chunk < 1.4, "a new chunk costs its own sound only"
    assert cut.call(0.625, window=1) == steps[0]
    assert set(cut.denoiser.times) == set(TIMES)


def test_audio_attention_takes_a_quarter_of_the_work(plain, cut):
    with FlopCounterMode(display=False) as counter:
        chunk = plain.dit.embed_audio(plain.windows[0].features_PTWSD[None].flatten(-2))
    made = counter.get_total_flops()
    tokens, grid = torch.empty(1, 10530, 5120, device="meta"), Grid(torch.empty(0), torch.empty(0), 1170)
    layer, work = plain.dit.blocks[0].audio_cross_attn, {}
    for name in ("plain", "absorbed"):
        with FlopCounterMode(display=False) as counter:
            keys = layer.absorb(chunk[0], 1) if name == "absorbed" else chunk[0]
            for _ in range(4):
                layer(tokens, keys, grid, None)
        work[name] = counter.get_total_flops()
    assert made > 0 and work["plain"] / work["absorbed"] >= 3.9, "over a chunk of 4 steps, making the absorbed keys included"


def small_vae(folded: bool) -> CausalVAE:
    torch.manual_seed(0)
    vae = CausalVAE(tiny().vae).eval().requires_grad_(False)
    if folded:
        fold_kernels(vae)
    return vae


def test_subpixel_convolution_gives_the_same_pixels_as_upsampling_first():
    latents = torch.randn(16, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    plain, folded = (torch.cat(list(small_vae(fold).decode(latents, (1, 2))), dim=1) for fold in (False, True))
    assert (folded - plain).abs().max() <= 1e-5


def test_channels_last_weights_give_the_same_pixels_and_folded_kernels_follow():
    latents = torch.randn(16, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    plain, laid = small_vae(True), small_vae(False)
    lay_channels_last(laid)
    fold_kernels(laid)
    last = laid.decoder.upsamples[3].resample["1"]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in (last.weight, last.subpixel.weight))
    assert laid.decoder.conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not laid.decoder.conv1.weight.is_contiguous(), "control: it is another layout"
    assert laid.state_dict().keys() == plain.state_dict().keys()
    a, b = (torch.cat(list(vae.decode(latents, (3,))), dim=1) for vae in (plain, laid))
    assert (a - b).abs().max() <= 1e-5
    video = torch.randn(3, 5, 16, 24)
    assert (plain.encode(video) - laid.encode(video)).abs().max() <= 1e-5


def swap_corners(weight: torch.Tensor) -> torch.Tensor:
    return weight.unflatten(0, (-1, 4)).flip(1).flatten(0, 1)


def test_even_and_odd_kernels_are_not_interchangeable():
    layer = small_vae(True).decoder.upsamples[3].resample["1"]
    x = torch.randn(1, layer.in_channels, 5, 6)
    folded, layer.subpixel = layer(x), layer.subpixel._replace(weight=swap_corners(layer.subpixel.weight))
    wrong, layer.subpixel = layer(x), None
    assert (folded - layer(x)).abs().max() <= 1e-5 and (wrong - layer(x)).abs().max() > 0.01


def test_skipping_the_zeros_before_the_first_frame_changes_nothing():
    """Against a convolution over zeros in front."""
    torch.manual_seed(0)
    layer = CausalConv3d(3, 4, 3)
    for frames in (1, 2, 3, 6):
        x = torch.randn(1, 3, frames, 5, 6)
        padded = torch.nn.functional.conv3d(torch.nn.functional.pad(x, (1, 1, 1, 1, 2, 0)), layer.weight, layer.bias)
        assert torch.allclose(layer(x, None), padded, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_precomputed_kernels_for_the_first_frames_equal_those_made_on_every_call(frames):
    torch.manual_seed(0)
    layer, x = CausalConv3d(3, 4, 3), torch.randn(1, 3, frames, 5, 6)
    plain = layer(x, None)
    fold_kernels(layer)
    assert [tuple(kernel.shape[2:]) for kernel in layer.early] == [(1, 3, 3), (2, 3, 3)]
    assert torch.equal(layer(x, None), plain)
    layer.early[0] = layer.early[0].flip(3)
    assert not torch.equal(layer(x, None)[:, :, 0], plain[:, :, 0]), "control: the first frame is theirs"


@pytest.mark.parametrize("frames, held", [(3, 3), (6, 6), (7, 2), (12, 2)])
def test_cached_frames_keep_little_more_memory_than_they_need(frames, held):
    torch.manual_seed(0)
    layer, past = CausalConv3d(3, 4, 3), {}
    x = torch.randn(1, 3, frames, 5, 6)
    layer(x, past)
    assert torch.equal(past[layer], x[:, :, -2:])
    assert past[layer].untyped_storage().nbytes() == 4 * 3 * held * 5 * 6


def vae_tflop(groups, frames=None) -> list[float]:
    """TFLOP of each decoded piece at 720 x 416, or of encoding `frames`."""
    with torch.device("meta"):
        vae = CausalVAE(VAEConfig()).requires_grad_(False)
    fold_kernels(vae)
    if frames:
        with FlopCounterMode(display=False) as counter:
            vae.encode(torch.empty(3, frames, 416, 720, device="meta"))
        return [counter.get_total_flops() / 1e12]
    pieces, work = vae.decode(torch.empty(16, 9, 52, 90, device="meta"), groups), []
    while True:
        with FlopCounterMode(display=False) as counter:
            if next(pieces, None) is None:
                return work
        work.append(counter.get_total_flops() / 1e12)


def test_decoding_a_chunk_takes_at_most_78_tflop_and_encoding_its_end_less_than_the_plain_8():
    assert sum(vae_tflop(())) <= 78
    assert vae_tflop((), frames=5)[0] < 6.5


def test_the_first_new_frames_take_at_most_24_tflop():
    motion, first, *_ = vae_tflop((2, 1, 2, 4))
    assert motion + first <= 24
