"""What artists steer: the strength of the sound, guidance, prompts that change; against plain computations, and wherever the DiT runs."""

import tempfile
import threading
from collections import Counter
from dataclasses import replace
from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch
from made import pixels, speech_like
from torch import nn

from livetalk_core.cli.main import main
from livetalk_core.engine import room
from livetalk_core.engine.compile import compile_models
from livetalk_core.engine.denoiser import PLAIN, Cuts, DiTDenoiser
from livetalk_core.engine.guidance import FULL, NEGATIVE, NEITHER, SILENT, Guidance, batches
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.options import EngineOptions
from livetalk_core.models.dit import AudioDiT
from livetalk_core.parallel.offload import offload_blocks
from livetalk_core.plan import StreamPlan
from livetalk_core.pool import wire
from livetalk_core.pool.pool import Placement, Pool, PoolClosed, Recipe
from livetalk_core.presets import tiny
from livetalk_core.stream.prompts import first_chunk, parse_prompts
from livetalk_core.types import AudioWindow, Reference, StreamSettings, TimedPrompt

CPU, PLAN = torch.device("cpu"), StreamPlan(width=48, height=32)
CONFIG = replace(tiny().dit, text_len=512)
BOTH = [Cuts(), PLAIN]
ALL = StreamSettings(
    seed=3, steps=2, audio_strength=1.4, text_guidance=2.0, audio_guidance=3.0, negative_prompt="blurred, static",
    prompts=(TimedPrompt(seconds=0.5, text="A person is laughing."),),
)  # fmt: skip


def made_dit() -> AudioDiT:
    torch.manual_seed(0)
    dit = AudioDiT(CONFIG).eval().requires_grad_(False)
    nn.init.normal_(dit.head.head.weight)
    return dit


@pytest.fixture(scope="module")
def dit() -> AudioDiT:
    return made_dit()


def case(people: int = 1, rows: int = 25) -> tuple[torch.Tensor, float, Reference, AudioWindow]:
    """What a denoiser is called with."""
    g = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    masks = torch.eye(3)[:, :, None].repeat(1, 1, 2) if people == 2 else None
    reference = Reference(
        text_LD=make(rows, CONFIG.text_dim), image_LD=make(257, CONFIG.image_dim), cond_CTHW=make(20, 9, 4, 6),
        first_CTHW=make(16, 1, 4, 6), pixels_CHW=make(3, 16, 16), speaker_masks_KHW=masks,
    )  # fmt: skip
    features = make(people, 33, 5, 1, CONFIG.audio_dim)
    return make(16, 9, 4, 6), 0.9375, reference, AudioWindow(index=0, features_PTWSD=features, samples=torch.zeros(1), num_valid=28)


NEGATIVE_LD = torch.randn(7, CONFIG.text_dim, generator=torch.Generator().manual_seed(5))


def x0(dit, cuts, people=1, guidance=Guidance(), strength=1.0):  # noqa: B008 (frozen)
    return DiTDenoiser(dit, (), cuts, guidance, strength)(*case(people), 2)[:, 2:]


@pytest.mark.parametrize("people", [1, 2])
@pytest.mark.parametrize("cuts", BOTH, ids=["cuts", "plain"])
def test_audio_strength_scales_the_output_of_every_audio_attention(dit, cuts, people):
    handles = [block.audio_cross_attn.register_forward_hook(lambda layer, given, out: 0.3 * out) for block in dit.blocks]
    expected = x0(dit, PLAIN, people)
    for handle in handles:
        handle.remove()
    assert (x0(dit, cuts, people, strength=0.3) - expected).abs().max() <= 1e-4
    assert (x0(dit, cuts, people) - expected).abs().max() > 0.01, "control: full strength is another result"
    assert torch.equal(x0(dit, cuts, people, strength=1), x0(dit, cuts, people))


def test_at_strength_1_nothing_is_multiplied(engine):
    denoiser = engine.open(engine.reference(pixels()), StreamSettings(audio_strength=1)).session.denoiser
    denoiser.hold_reference(case()[2])
    assert not any(hasattr(keys, "strength") for keys in denoiser.audio_keys(torch.zeros(1, 1, 33, 5, tiny().dit.audio_dim)))


def test_without_strength_the_sound_does_not_matter(dit):
    x, t, reference, window = case()
    other = replace(window, features_PTWSD=window.features_PTWSD.flip(1))
    muted = [DiTDenoiser(dit, (), Cuts(), audio_strength=0.0)(x, t, reference, each, 2) for each in (window, other)]
    assert torch.equal(*muted)
    heard = [DiTDenoiser(dit, (), Cuts())(x, t, reference, each, 2) for each in (window, other)]
    assert not torch.equal(*heard), "control"


def guided_plainly(dit, text: float, audio: float, people: int) -> torch.Tensor:
    """Every pass by itself through a denoiser without guidance, combined as published."""
    x, t, reference, window = case(people)
    silence = replace(window, features_PTWSD=torch.zeros_like(window.features_PTWSD[-1:]))
    negative = replace(reference, text_LD=NEGATIVE_LD)

    def v(reference, window):
        masks = reference.speaker_masks_KHW if len(window.features_PTWSD) == 2 else None
        return (x - DiTDenoiser(dit, (), PLAIN)(x, t, replace(reference, speaker_masks_KHW=masks), window, 2)) / t

    full, no_text, no_sound, nothing = v(reference, window), v(negative, window), v(reference, silence), v(negative, silence)
    guided = no_sound + audio * (full - no_sound) if text == 1 else nothing + text * (full - no_text) + audio * (no_text - nothing)
    return (x - t * guided)[:, 2:]


@pytest.mark.parametrize("people", [1, 2])
@pytest.mark.parametrize("text, audio", [(5.0, 4.0), (1.0, 4.0), (5.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("cuts", [*BOTH, replace(Cuts(), batch_passes=False)], ids=["cuts", "plain", "one by one"])
def test_guidance_combines_the_passes_as_published(dit, cuts, text, audio, people):
    found = x0(dit, cuts, people, Guidance(text=text, audio=audio, negative_LD=NEGATIVE_LD))
    assert (found - guided_plainly(dit, text, audio, people)).abs().max() <= 2e-4
    assert (text, audio) == (1, 1) or (found - x0(dit, cuts, people)).abs().max() > 0.01, "control: unguided is another result"


def test_guidance_makes_the_passes_that_it_needs_and_no_others():
    assert Guidance().passes == (FULL,)
    assert Guidance(audio=2).passes == (FULL, SILENT)
    assert Guidance(text=5).passes == (FULL, NEGATIVE)
    assert Guidance(text=5, audio=4).passes == (FULL, NEGATIVE, NEITHER)
    passes = Guidance(text=5, audio=4).passes
    assert batches(passes, together=True, two_speakers=False) == [passes]
    assert batches(passes, together=True, two_speakers=True) == [(FULL, NEGATIVE), (NEITHER,)], "two voices and one never in one call"
    assert batches(passes, together=False, two_speakers=True) == [(each,) for each in passes]


@pytest.mark.parametrize("free, calls", [(None, 1), (1 << 40, 1), (0, 3)])
def test_the_passes_are_one_call_where_memory_allows(monkeypatch, free, calls):
    engine, made = load_engine("tiny", device="cpu"), Counter()
    monkeypatch.setattr(room, "free_bytes", lambda device: free)
    stream = engine.open(engine.reference(pixels()), replace(ALL, steps=4))
    engine.models.dit.register_forward_pre_hook(lambda module, given: made.update([given[0].shape[0]]))
    for _ in stream.push(torch.zeros(17920)):
        pass
    assert made == {3 // calls: 4 * calls}


@pytest.mark.parametrize("resident", [0, 1])
@torch.no_grad()
def test_offloaded_blocks_give_the_same_bits(dit, resident):
    away = made_dit()
    away.runners = offload_blocks(away, CPU, torch.float32, resident=resident)
    guidance = Guidance(text=5.0, audio=4.0, negative_LD=NEGATIVE_LD)
    for cuts in BOTH:
        assert torch.equal(x0(away, cuts, 1, guidance, 0.5), x0(dit, cuts, 1, guidance, 0.5))


def frames_of(chunks) -> torch.Tensor:
    return torch.cat([chunk.frames_THWC for chunk in chunks])


def talk(engine, settings=ALL, seconds=1.4, prompt="A person is talking.") -> torch.Tensor:
    stream = engine.open(engine.reference(pixels(), prompt), settings)
    return frames_of([*stream.push(torch.from_numpy(speech_like(seconds))), *stream.finish()])


def test_a_compiled_model_is_steered_as_the_eager_one_and_another_strength_compiles_nothing(engine, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    fast, counters = load_engine("tiny", device="cpu"), torch._dynamo.utils.counters
    compile_models(fast.models.dit, None, CPU)
    assert torch.equal(talk(fast), talk(engine))
    made = counters["stats"]["unique_graphs"]
    talk(fast, replace(ALL, audio_strength=0.7))
    assert counters["stats"]["unique_graphs"] == made
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["resident", "sharded"])
def test_a_pool_is_steered_as_one_process(engine, memory, tmp_path, monkeypatch):
    """Ulysses and a ring of two processes; guidance, strength, a prompt by time and one by call."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ulysses = 2 if memory == "resident" else 1
    options = EngineOptions(model="tiny", device="cpu", memory=memory)
    pool = Pool(Placement(num_workers=2, ulysses_degree=ulysses, ring_degree=2 // ulysses), Recipe(options=options))
    try:
        ours, changed = talk(pool), told(pool)
        stream = pool.open(pool.reference(pixels()), StreamSettings())
        stream.close()
        with pytest.raises(PoolClosed, match="the stream is closed"):
            stream.set_prompt("A person is laughing.")
        pool.ask(wire.SetPrompt(session=1 << 20, text_LD=torch.zeros(1, 32)), 60)  # as if it was closed after that check
        pool.ping()
    finally:
        pool.close()
    for found, expected in ((ours, talk(engine)), (changed, told(engine))):
        assert (found.int() - expected.int()).abs().max() <= 1 and expected.float().std() > 1


def told(engine) -> torch.Tensor:
    """Two chunks; after the first piece of the first, another prompt is set."""
    stream = engine.open(engine.reference(pixels()), StreamSettings(steps=1))
    pieces = stream.push(torch.from_numpy(speech_like(2.24)))
    first = next(pieces)
    stream.set_prompt("A person is laughing.")
    return frames_of([first, *pieces])


def test_a_prompt_begins_with_the_first_chunk_that_starts_at_its_time(engine):
    settings = StreamSettings(steps=1, prompts=(TimedPrompt(seconds=1.12, text="A person is laughing."),))
    before, after = talk(engine, replace(settings, prompts=())), talk(engine, settings)
    assert torch.equal(before[:28], after[:28]) and not torch.equal(before[28:], after[28:])
    again = talk(engine, replace(settings, prompts=(TimedPrompt(seconds=0, text="A person is laughing."),)), 0.4)
    assert torch.equal(again, talk(engine, replace(settings, prompts=()), 0.4, "A person is laughing."))
    assert not torch.equal(again, before[:10]), "control: the prompt matters"


def test_a_prompt_set_while_a_chunk_is_made_begins_with_the_next_one(engine):
    by_time = StreamSettings(steps=1, prompts=(TimedPrompt(seconds=1.12, text="A person is laughing."),))
    stream = engine.open(engine.reference(pixels()), by_time)
    expected = frames_of(stream.push(torch.from_numpy(speech_like(2.24))))
    assert torch.equal(told(engine), expected)


def test_chunks_are_made_while_a_new_prompt_is_encoded():
    engine, gate = load_engine("tiny", device="cpu"), threading.Event()
    stream, text = engine.open(engine.reference(pixels()), StreamSettings(steps=1)), engine.models.text
    engine.models = replace(engine.models, text=lambda: gate.wait() and text())
    waiting = threading.Thread(target=stream.set_prompt, args=("A person is laughing.",), daemon=True)
    waiting.start()
    assert len(list(stream.push(torch.zeros(17920)))) == 3 and waiting.is_alive()
    gate.set()
    waiting.join()
    assert stream.session.new_prompt_LD is not None


@pytest.mark.parametrize("seconds, chunk", [(0, 0), (0.01, 1), (1.12, 1), (1.13, 2), (2.24, 2), (60, 54)])
def test_a_prompts_time_gives_its_chunk(seconds, chunk):
    assert first_chunk(TimedPrompt(seconds=seconds, text="x"), PLAN) == chunk


def test_prompts_are_read_line_by_line():
    assert parse_prompts(["0: Hello: you", "", " 12.5:she laughs "]) == (
        TimedPrompt(seconds=0, text="Hello: you"),
        TimedPrompt(seconds=12.5, text="she laughs"),
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--prompt-at", "laugh"], "prompt 'laugh' must be SECONDS:TEXT, for example 12.5:A person is laughing."),
        (["--prompt-at", "1m:laugh"], "prompt '1m:laugh' must be SECONDS:TEXT"),
        (["--prompt-at", "nan:laugh"], "prompt 'nan:laugh' must be SECONDS:TEXT"),
        (["--prompt-at", "-1:laugh"], "prompt at -1 s: the time must be 0 or more seconds from the start"),
        (["--prompt-at", "inf:laugh"], "prompt at inf s: the time must be 0 or more seconds from the start"),
        (["--prompt-at", "3: "], "prompt at 3 s: the text is empty; write it after the colon, or leave the line out"),
        (["--audio-strength", "3"], "audio_strength=3.0 must be 0 (the sound moves nothing) to 2; 1 is as trained"),
        (["--audio-strength", "nan"], "audio_strength=nan must be 0"),
        (["--text-guidance", "-1"], "text_guidance=-1.0 must be 0 to 20; 1 is none, and leave it out for the model's own"),
        (["--audio-guidance", "nan"], "audio_guidance=nan must be 0 to 20"),
    ],
)
def test_bad_wishes_are_refused_in_one_line(words, message, capsys):
    assert main(["generate", "=".join(words)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"livetalk: error: {message}") and told.count("\n") == 1


def test_the_nodes_inputs_become_the_settings(nodes):
    speech, reference = SimpleNamespace(people=1, loudness=True), SimpleNamespace(speaker_masks_KHW=None)
    plain = nodes.sample.make_stream(None, reference, speech, 3, 0, 0.0, 1.0)
    assert plain.settings == StreamSettings(seed=3)
    steered = {"audio_strength": 1.4, "prompt_at": "0.5: A person is laughing.\n\n", "text_guidance": 2.0, "audio_guidance": 3.0}
    found = nodes.sample.make_stream(None, reference, speech, 3, 2, 0.0, 1.0, negative_prompt=" blurred, static ", **steered)
    assert found.settings == ALL
