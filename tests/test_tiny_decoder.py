"""The tiny decoder: published layout, frame by frame; pieces; errors; and its reported deviation."""

import math

import pytest
import torch
import torch.nn.functional as F
from made import pixels, speech_like, write_wav
from safetensors.torch import save_file
from torch import nn

from livetalk_core.bench.counts import count_parts
from livetalk_core.cli.main import main
from livetalk_core.engine.compile import compile_models
from livetalk_core.engine.denoiser import Cuts
from livetalk_core.engine.load import load_engine, load_member
from livetalk_core.engine.options import EngineOptions
from livetalk_core.media.video import probe_video
from livetalk_core.models.tiny_decoder import DraftVAE, TinyDecoder
from livetalk_core.presets import tiny
from livetalk_core.types import StreamSettings

DOUBLINGS = ((6, 256, 128, 1), (12, 128, 64, 2), (18, 64, 64, 2))
"""Place in the published row, channels before and after, frames made of one."""


def published_shapes():
    """Names and shapes of taew2_1's decoder, written out from its publication."""
    shapes = {"1.weight": (256, 16, 3, 3), "1.bias": (256,), "22.weight": (3, 64, 3, 3), "22.bias": (3,)}
    for place, width, after, growth in DOUBLINGS:
        for block in range(place - 3, place):
            for layer, channels in ((0, 2 * width), (2, width), (4, width)):
                shapes[f"{block}.conv.{layer}.weight"], shapes[f"{block}.conv.{layer}.bias"] = (width, channels, 3, 3), (width,)
        shapes[f"{place + 1}.conv.weight"] = (growth * width, width, 1, 1)
        shapes[f"{place + 2}.weight"] = (after, width, 3, 3)
    return {f"decoder.{name}": shape for name, shape in shapes.items()}


def random_tensors(seed=0):
    """Weights that keep a signal's size, in the published half precision; an encoder goes with them."""
    g = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(s, generator=g) * (math.prod(s[1:]) ** -0.5 if len(s) > 1 else 0.1) for name, s in published_shapes().items()}
    made["decoder.22.bias"] += 0.5
    return {name: tensor.half() for name, tensor in made.items()} | {"encoder.0.weight": torch.zeros(64, 3, 3, 3).half()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("decoder") / "taew2_1.pth"
    torch.save(random_tensors(), path)
    return path


@pytest.fixture(scope="module")
def engine(file):
    return load_engine("tiny", device="cpu", decoder=file)


def latents(frames=4, height=3, width=5):
    return torch.randn(16, frames, height, width, generator=torch.Generator().manual_seed(1))


def plain_decode(tensors, latents_CTHW):
    """The published layers as plain functions, one latent after the other: frames in [0, 1]."""
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    before, frames = {}, []

    def conv(x, name):
        return F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding=1)

    def remember(x, name):
        y = torch.cat([x, before.get(name, torch.zeros_like(x))], dim=1)
        before[name] = x
        y = conv(F.relu(conv(F.relu(conv(y, f"{name}.conv.0")), f"{name}.conv.2")), f"{name}.conv.4")
        return F.relu(y + x)

    def rise(x, level):
        if level == len(DOUBLINGS):
            frames.append(conv(F.relu(x), "decoder.22").clamp(0, 1))
            return
        place, width, _, growth = DOUBLINGS[level]
        for block in range(place - 3, place):
            x = remember(x, f"decoder.{block}")
        x = F.conv2d(F.interpolate(x, scale_factor=2), weights[f"decoder.{place + 1}.conv.weight"])
        for i in range(growth):
            rise(conv(x[:, i * width : (i + 1) * width], f"decoder.{place + 2}"), level + 1)

    for z in latents_CTHW.transpose(0, 1):
        rise(F.relu(conv(torch.tanh(z[None] / 3) * 3, "decoder.1")), 0)
    return torch.cat(frames[3:]).transpose(0, 1)


def decode(vae, latents_CTHW, groups=()):
    return torch.cat(list(vae.decode(latents_CTHW, groups)), dim=1)


def test_its_tensors_have_the_published_names_and_shapes():
    with torch.device("meta"):
        state = TinyDecoder().state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_shapes()


def test_frames_are_those_of_the_published_layers_taken_one_by_one(engine):
    wanted, found = plain_decode(random_tensors(), latents()), decode(engine.models.vae, latents())
    assert found.shape == (3, 13, 24, 40)
    assert found.std() > 0.1
    torch.testing.assert_close((found + 1) / 2, wanted, atol=2e-5, rtol=0)
    forgetful = torch.cat([plain_decode(random_tensors(), latents()[:, i : i + 1]) for i in range(4)], dim=1)
    assert (forgetful[:, -1] - wanted[:, -1]).abs().max() > 0.01, "control: a decoder without a past gives other frames"


@pytest.mark.parametrize("groups", [(1,), (3,), (1, 2), (4,)])
def test_pieces_are_bit_equal_to_decoding_at_once(engine, groups):
    vae = engine.models.vae
    pieces = list(vae.decode(latents(7), groups))
    assert pieces[0].shape[1] == 4 * groups[0] - 3 and sum(piece.shape[1] for piece in pieces) == 25
    assert torch.equal(torch.cat(pieces, dim=1), decode(vae, latents(7)))


def test_safetensors_and_pickles_give_the_same_and_the_encoder_stays(file, engine, tmp_path):
    save_file(random_tensors(), tmp_path / "taew2_1.safetensors")
    other = load_engine("tiny", device="cpu", decoder=str(tmp_path / "taew2_1.safetensors")).models.vae
    assert torch.equal(decode(other, latents()), decode(engine.models.vae, latents()))
    exact, video = load_engine("tiny", device="cpu").models.vae, pixels()[:, None].repeat(1, 5, 1, 1)
    assert torch.equal(engine.models.vae.encode(video), exact.encode(video))
    assert not torch.equal(decode(exact, latents()), decode(other, latents())), "control"


def without(name):
    return {other: tensor for other, tensor in random_tensors().items() if other != name}


@pytest.mark.parametrize(
    "tensors, message",
    [
        (without("decoder.7.conv.weight"), "not the weights of the tiny decoder .*decoder.7.conv.weight missing"),
        (random_tensors() | {"decoder.3.skip.weight": torch.zeros(1)}, "it has no decoder.3.skip.weight"),
        (random_tensors() | {"decoder.1.weight": torch.zeros(256, 48, 3, 3)}, r"decoder.1.weight is \[256, 48, 3, 3\] but must be"),
        ({"conv2.weight": torch.zeros(1)}, "not the weights of the tiny decoder"),
    ],
)
def test_a_file_of_another_layout_is_refused_in_one_line(tmp_path, tensors, message):
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"--decoder .*other.pth: .*{message}.*taew2_1.pth of github") as error:
        load_engine("tiny", device="cpu", decoder=tmp_path / "other.pth")
    assert "\n" not in str(error.value)


def test_models_and_options_it_does_not_support_are_refused_in_one_line(file, tmp_path, capsys):
    asked = EngineOptions(model="tiny", device="cpu", decoder=file)
    with pytest.raises(ValueError, match="16 channels, and nano has another VAE, .* leave it out"):
        load_engine("nano", device="cpu", decoder=file)
    with pytest.raises(ValueError, match="works in one process only; leave it out"):
        load_member(object(), asked)
    with pytest.raises(FileNotFoundError, match="--decoder .*gone.pth is missing; name a file of taew2_1.pth"):
        load_engine("tiny", device="cpu", decoder=tmp_path / "gone.pth")
    assert load_member(None, asked).models.vae.config.z_dim == 16, "control: a pool of one process has it"


def talk(engine, steps=4, chunks=2):
    """Frames and latents of a stream's chunks."""
    kept = []
    stream = engine.open(engine.reference(pixels()), StreamSettings(seed=1, steps=steps, color_strength=0), on_latents=kept.append)
    sound = torch.sin(torch.arange(chunks * engine.plan(48, 32).new_samples) / 9) * 0.2
    return torch.cat([chunk.frames_THWC for chunk in stream.push(sound)]), kept


def test_the_first_chunks_psnr_is_reported_once_per_size(file, caplog):
    frames, (first, _) = talk(load_engine("tiny", device="cpu"))
    assert caplog.messages == [] and frames.shape == (56, 32, 48, 3), "control: the exact way has nothing to say"
    engine = load_engine("tiny", device="cpu", decoder=file)
    exact, draft = (decode(vae, first)[:, 5:].double() for vae in (engine.models.vae.exact, engine.models.vae))
    wanted = -10 * math.log10(((exact - draft) / 2).square().mean())
    assert 0 < wanted < 40
    drafts, (same, carried) = talk(engine)
    assert torch.equal(same, first) and drafts.shape == frames.shape and not torch.equal(drafts, frames)
    shown = ((draft.float() + 1) / 2 * 255).to(torch.uint8).permute(1, 2, 3, 0)
    assert (drafts[:28].int() - shown.int()).abs().max() <= 1
    motion = engine.models.vae.encode(decode(engine.models.vae, first)[:, -5:])
    torch.testing.assert_close(carried[:, :2], motion, atol=1e-4, rtol=0)  # of the tiny decoder's own frames
    talk(engine, chunks=1)
    assert caplog.messages == [
        f"--decoder: on the first chunk at 48x32 the frames' PSNR to the exact decoder's is {wanted:.2f} dB; leave it out for those"
    ]


def test_the_psnr_is_measured_on_exact_latents_whatever_the_other_options(file, engine):
    talk(engine, chunks=1)
    both = load_engine("tiny", device="cpu", decoder=file)
    talk(both, steps=3, chunks=1)
    assert both.deviations.psnr_db == engine.deviations.psnr_db
    assert [option for option, *_ in both.deviations.found] == ["--steps 3"]


def test_the_compiler_takes_it(file, monkeypatch):
    engine, compiled = load_engine("tiny", device="cpu", decoder=file), []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **form: compiled.append(type(self)))
    monkeypatch.setattr("livetalk_core.engine.compile.require_compiler", lambda device: None)
    compile_models(engine.models.dit, engine.models.vae, engine.device)
    assert TinyDecoder in compiled and isinstance(engine.models.vae, DraftVAE)


def test_bench_counts_its_work_in_place_of_the_exact_decoders():
    """Two FLOPs per weight, pixel and frame, for every layer of one latent frame."""
    sites = {1: 1, **dict.fromkeys((3, 4, 5, 7), 1), **dict.fromkeys((8, 9, 10, 11, 13), 4), **dict.fromkeys((14, 15, 16, 17, 19), 32)}
    sites |= {20: 256, 22: 256}
    work = sum(math.prod(s) * sites[int(name.split(".")[1])] for name, s in published_shapes().items() if name.endswith("weight"))
    tiny_row, row = (
        {row["name"]: row for row in count_parts(tiny(), (48, 32), torch.float32, Cuts(), draft)}["VAE decode"] for draft in (True, False)
    )
    assert tiny_row["flops"] == 2 * work * 9 * 6 * 4
    assert row["flops"] != tiny_row["flops"], "control"


def test_a_video_is_made_with_it_and_the_line_is_printed(file, tmp_path, portrait, caplog):
    sound = write_wav(tmp_path / "speech.wav", speech_like(2.0))
    words = ["generate", portrait, sound, tmp_path / "out.mp4", "--model", "tiny", "--size", "48x32", "--decoder", file]
    assert main(list(map(str, words))) == 0
    assert probe_video(tmp_path / "out.mp4").frames == 50
    assert len([line for line in caplog.messages if line.startswith("--decoder: ")]) == 1
    assert main([*map(str, words[:4]), "--overwrite", "--model", "nano", "--decoder", str(file)]) == 2
