"""InfiniteTalk and MultiTalk: the published loops' numbers at toy size, their presets, and how a model is recognized."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from community_files import write_set
from made import pixels, speech_like
from safetensors.torch import save_file

from livetalk_core.checks import parity_guided
from livetalk_core.checks.parity import Golden, run_parity
from livetalk_core.checks.parity_guided import SAMPLERS, Recorded
from livetalk_core.engine.denoiser import PLAIN, Cuts, DiTDenoiser
from livetalk_core.engine.engine import Engine
from livetalk_core.engine.files import ModelFiles, find_files
from livetalk_core.engine.kind import kind_of
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.options import EngineOptions
from livetalk_core.models.packed import PackedLinear
from livetalk_core.models.weights import read_tensors
from livetalk_core.pool.pool import Placement, Pool, Recipe
from livetalk_core.pool.stream import effort_of
from livetalk_core.presets import LARGE, infinitetalk, infinitetalk_4step, livetalk_14b, multitalk, tiny
from livetalk_core.serve.session import LiveSession
from livetalk_core.stream.flow import first_motion, linear_times
from livetalk_core.types import Shown, Start, StreamSettings

FOLDER = Path(__file__).parent / "golden_guided"
LIMIT = 2e-4
CASES = [(model, case) for model in SAMPLERS for case in parity_guided.CASES]


@pytest.fixture(scope="module")
def recorded():
    source = Golden(FOLDER)
    return {(model, case): Recorded(model, case, source) for model, case in CASES}


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return (found - expected).abs().max().item()


@pytest.mark.parametrize("cuts", [Cuts(), PLAIN], ids=["cuts", "plain"])
@pytest.mark.parametrize("key", CASES, ids="-".join)
@torch.no_grad()
def test_a_guided_step_is_the_published_one(recorded, key, cuts):
    made = recorded[key]
    reference, x, t = made.reference(), made["in.step.0"], made.times[0]
    known = first_motion(made.settings, reference).shape[1]
    x0 = made.denoiser(cuts)(x, t, reference, made.window(0), known)
    assert error(((x - x0) / t)[:, known:], made["out.velocity.0"][:, known:]) <= LIMIT
    other = replace(made.guidance, audio=made.guidance.audio + 0.1)
    control = DiTDenoiser(made.golden.dit, (), cuts, other)(x, t, reference, made.window(0), known)
    assert error(((x - control) / t)[:, known:], made["out.velocity.0"][:, known:]) > 10 * LIMIT


@pytest.mark.parametrize("key", CASES, ids="-".join)
@torch.no_grad()
def test_chunks_are_the_published_ones(recorded, key):
    """Timesteps, conditions, latents and the last frame; the second chunk starts from our own end of the first."""
    made, latents = recorded[key], []
    made.described = []
    assert error(1000 * torch.tensor(made.times[:-1]), made["out.timesteps"]) <= 1e-3
    session = made.session(on_latents=latents.append)
    frames = []
    session.matched = lambda piece: frames.append(piece) or piece
    for chunk in range(made.chunks):
        assert error(session.reference.cond_CTHW, made[f"out.condition.{chunk if key[0] == 'multitalk' else 0}"]) <= LIMIT
        list(session.step(made.window(chunk)))
        assert error(latents[chunk], made[f"out.latent.{chunk}"]) <= LIMIT
    if key == ("multitalk", "guided"):
        assert error(made.described[0], made["out.described.1"]) <= LIMIT
    if key[1] == "lora":
        assert error(frames[-1][:, -1], made["out.frames"]) <= LIMIT


def test_the_parity_command_reads_the_guided_files_too(tmp_path):
    results = list(run_parity(FOLDER))
    assert {result.file for result in results} == set(SAMPLERS) and len(results) == 2 * 14
    assert [f"{r.file} {r.what}: {r.error:.1e}" for r in results if not r.passed] == []
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(FOLDER / "infinitetalk.safetensors", alone)
    with pytest.raises(FileNotFoundError, match="alone/vae.safetensors is missing; another file of the folder needs it"):
        list(run_parity(alone))


@torch.no_grad()
def test_another_sampler_does_not_give_the_published_latents(recorded):
    made, latents = recorded["multitalk", "guided"], []
    made.described = []
    made.settings = replace(made.settings, sampler="euler")
    try:
        session = made.session(on_latents=latents.append)
        list(session.step(made.window(0)))
    finally:
        made.settings = replace(made.settings, sampler="euler_noised")
    assert error(latents[0], made["out.latent.0"]) > 0.01


def test_presets_have_the_published_plan_schedule_and_guidance():
    preset = infinitetalk()
    small, large = preset.plan(768, 512), preset.plan(1280, 704)
    assert (small.chunk_frames, small.motion_frames, small.new_frames, small.latent_frames) == (81, 9, 72, 21)
    settled = preset.settled(StreamSettings(), small)
    assert (settled.steps, settled.shift, settled.text_guidance, settled.audio_guidance, settled.sampler) == (40, 7.0, 5.0, 4.0, "euler")
    assert settled.texts == (preset.negative_prompt,) and preset.negative_prompt.startswith("bright tones, overexposed")
    assert preset.settled(StreamSettings(), large).shift == 11.0 and preset.settled(StreamSettings(shift=3.0), large).shift == 3.0
    assert multitalk().plan(768, 512).motion_frames == 25 and multitalk().sampler == "euler_noised"
    fast = infinitetalk_4step().settled(StreamSettings(), small)
    assert (fast.steps, fast.text_guidance, fast.audio_guidance, fast.texts) == (4, 1.0, 2.0, ())
    assert livetalk_14b().settled(StreamSettings(), livetalk_14b().plan(1280, 704)).shift == 5.0
    assert set(LARGE) == {"livetalk_14b", "infinitetalk", "infinitetalk_4step", "multitalk", "multitalk_4step"}


def test_times_go_in_equal_distances_from_1000_to_1_and_then_to_0():
    times = linear_times(40, 7.0)
    assert len(times) == 41 and times[0] == 1 and times[-1] == 0 and times[-2] == pytest.approx(7 * 0.001 / (1 + 6 * 0.001))
    assert times == sorted(times, reverse=True)


def with_preset(engine: Engine, preset) -> Engine:
    """The tiny engine with a large preset's ways."""
    ways = (
        "steps",
        "shift",
        "large_shift",
        "sampler",
        "text_guidance",
        "audio_guidance",
        "negative_prompt",
        "chunk_frames",
        "motion_frames",
    )
    return Engine(replace(tiny(), **{name: vars(preset)[name] for name in ways}), engine.models, engine.device, engine.dtype)


def talk(engine, seconds: float, settings: StreamSettings, **later) -> list:
    stream = engine.open(engine.reference(pixels()), settings, **later)
    return [*stream.push(torch.from_numpy(speech_like(seconds))), *stream.finish()]


@pytest.mark.parametrize("preset, new", [(infinitetalk, 72), (multitalk, 56)])
def test_a_stream_has_the_sounds_frames_in_pieces_without_gap(engine, preset, new):
    pieces = talk(with_preset(engine, preset()), 3.2, StreamSettings(steps=1))
    firsts = [piece.first_frame for piece in pieces]
    assert sum(len(piece.frames_THWC) for piece in pieces) == 80 and firsts[0] == 0
    assert all(b == a + len(piece.frames_THWC) for a, b, piece in zip(firsts, firsts[1:], pieces, strict=False))
    assert {piece.index for piece in pieces} == {0, 1} and next(piece.first_frame for piece in pieces if piece.index == 1) == new


def test_infinitetalk_begins_in_the_middle_as_if_it_had_come_there_and_multitalk_refuses(engine):
    slow, latents, settings = with_preset(engine, infinitetalk()), [], StreamSettings(steps=1)
    whole = talk(slow, 3.2, settings, on_latents=latents.append)
    rest = talk(slow, 3.2, settings, start=Start(index=1, motion_CTHW=latents[1][:, :3]))
    expected = [piece for piece in whole if piece.index == 1]
    assert all(torch.equal(a.frames_THWC, b.frames_THWC) for a, b in zip(rest, expected, strict=True)) and rest
    with pytest.raises(ValueError, match="this model's condition shows the chunk before"):
        talk(with_preset(engine, multitalk()), 3.2, settings, start=Start(index=1, motion_CTHW=latents[1][:, :7]))


def test_a_pool_waits_as_much_longer_as_a_chunk_is_more_work():
    plan, settled = infinitetalk().plan(768, 512), infinitetalk().settled(StreamSettings())
    assert effort_of(settled, plan) == 40 * 3 * 21 / 36
    plan = livetalk_14b().plan(720, 416)
    assert [effort_of(livetalk_14b().settled(StreamSettings(steps=steps)), plan) for steps in (2, 4, 8)] == [1, 1, 2]


@pytest.mark.slow
def test_a_pool_makes_multitalks_chunks(published, tmp_path, monkeypatch):
    """Two processes with bands of each frame; CLIP needs the whole last frame."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kind, settings = "multitalk_4step", StreamSettings(steps=1)
    options = EngineOptions(model=published, device="cpu", kind=kind)
    pool = Pool(Placement(num_workers=2, ulysses_degree=1, ring_degree=2), Recipe(options=options))
    try:
        ours = talk(pool, 3.2, settings)
    finally:
        pool.close()
    theirs = talk(load_engine(published, "cpu", kind=kind), 3.2, settings)
    pairs = list(zip(ours, theirs, strict=True))
    assert {piece.index for piece in ours} == {0, 1}
    assert max((a.frames_THWC.int() - b.frames_THWC.int()).abs().max() for a, b in pairs) <= 1


@pytest.fixture(scope="module")
def halves(published, tmp_path_factory) -> Path:
    """The toy model in the published form as a base in two shards and an audio patch, named as users have them."""
    folder = tmp_path_factory.mktemp("halves")
    tensors = read_tensors(find_files(published).dit)
    patch = {name: tensor.clone() for name, tensor in tensors.items() if "audio_" in name or ".norm_x." in name}
    save_file(patch | {"scaled_fp8": torch.zeros(2)}, folder / "eight_bits.safetensors")
    base = [name for name in tensors if name not in patch]
    save_file(patch, folder / "infinitetalk.safetensors")
    for i, names in enumerate((base[:20], base[20:])):
        save_file({name: tensors[name].clone() for name in names}, folder / f"base-{i}.safetensors")
    return folder


def test_a_base_in_shards_and_its_patch_are_infinitetalk(published, halves):
    files = (halves / "base-0.safetensors", halves / "base-1.safetensors", halves / "infinitetalk.safetensors")
    engine = load_engine(published, "cpu", dit=files)
    assert (engine.preset.steps, engine.preset.sampler, engine.preset.chunk_frames) == (40, "euler", 81)
    whole = load_engine(published, "cpu")
    assert (whole.preset.steps, whole.preset.sampler, whole.preset.chunk_frames) == (4, "renoise", 33)
    ours, theirs = engine.models.dit.state_dict(), whole.models.dit.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    pieces = talk(engine, 1.0, StreamSettings(steps=1))
    assert sum(len(piece.frames_THWC) for piece in pieces) == 25


def test_a_patchs_name_tells_multitalk_and_the_option_overrules(published, halves):
    base, patch = halves / "base-0.safetensors", halves / "infinitetalk.safetensors"
    renamed = halves / "WanVideo_2_1_Multitalk_14B.safetensors"
    renamed.write_bytes(patch.read_bytes())
    assert kind_of((base, renamed)) == "multitalk" and kind_of((base, patch)) == "infinitetalk"
    assert kind_of((patch,)) == kind_of((renamed, base)) == kind_of(find_files(published).dit) == "livetalk_14b"
    assert kind_of((base, halves / "eight_bits.safetensors")) == "infinitetalk"
    engine = load_engine(published, "cpu", kind="infinitetalk_4step")
    assert (engine.preset.steps, engine.preset.audio_guidance) == (4, 2.0)


def test_a_kind_that_is_not_the_models_is_refused():
    with pytest.raises(ValueError, match="kind='multitalk' is for the large models, and these files are nano's; leave it out"):
        load_engine("nano", "cpu", kind="multitalk")


def test_infinitetalk_with_a_distillation_lora_talks_in_4_steps(tmp_path):
    """The set that people have, from its files: an 8-bit base, a patch, a LoRA beside the packed weights."""
    files = write_set(tmp_path, "fp8")
    at = {folder: tmp_path / folder / names[0] for folder, names in files.items()}
    engines = {}
    for lora in ((), (str(at["loras"]),)):
        engines[lora] = load_engine(
            ModelFiles(
                dit=(at["diffusion_models"], at["model_patches"]), vae=at["vae"], text=at["text_encoders"], image=at["clip_vision"],
                audio=at["audio_encoders"],
            ), "cpu", kind="infinitetalk_4step", lora=lora,
        )  # fmt: skip
    plain, distilled = (torch.cat([piece.frames_THWC for piece in talk(each, 0.4, StreamSettings())]).int() for each in engines.values())
    engine = engines[(str(at["loras"]),)]
    settled = engine.preset.settled(StreamSettings(), engine.preset.plan(48, 32))
    assert (settled.steps, settled.text_guidance, settled.audio_guidance) == (4, 1.0, 2.0)
    beside = [layer for layer in engine.models.dit.modules() if isinstance(layer, PackedLinear) and layer.lora_down is not None]
    assert len(beside) == 24 and {layer.form for layer in beside} == {"fp8"}
    assert plain.shape == distilled.shape == (10, 32, 48, 3) and (plain - distilled).abs().float().mean() > 0.1, "the LoRA counts"


def test_live_video_goes_on_from_shown_frames_with_infinitetalk_and_multitalk_refuses(engine):
    slow = with_preset(engine, infinitetalk())
    reference = slow.reference(pixels())
    draw = torch.Generator().manual_seed(1)
    shown = Shown(frames_THWC=torch.randint(0, 255, (9, 32, 48, 3), dtype=torch.uint8, generator=draw), samples_N=torch.zeros(16000))
    first = {}
    for name, later in {"fresh": {}, "shown": {"start": shown}}.items():
        stream = slow.open(reference, StreamSettings(steps=1), **later)
        first[name] = torch.cat([piece.frames_THWC for piece in stream.finish(3)])
    assert first["fresh"].shape == first["shown"].shape == (3, 32, 48, 3) and not torch.equal(first["fresh"], first["shown"])
    LiveSession(slow, reference).close()
    with pytest.raises(ValueError, match="makes no live video: its condition shows the chunk before.*; use InfiniteTalk") as error:
        LiveSession(with_preset(engine, multitalk()), reference)
    assert "\n" not in str(error.value)
