"""Options that change the result say by how much, on the first chunk and not again."""

import pytest
import torch

from livetalk_core.engine import deviation
from livetalk_core.engine.load import load_engine
from livetalk_core.models import attention
from livetalk_core.types import StreamSettings


def first_latents(engine, settings, chunks=1, size=(48, 32)):
    """[16, t, h, w] of a stream's first chunk, after the motion latent."""
    pixels_CHW = torch.linspace(-1, 1, 3 * size[0] * size[1]).view(3, size[1], size[0])
    latents = []
    stream = engine.open(engine.reference(pixels_CHW), settings, on_latents=latents.append)
    sound = torch.sin(torch.arange(chunks * engine.plan(*size).new_samples) / 9) * 0.2
    assert len(list(stream.push(sound))) >= chunks
    return latents[0][:, 1:]


def load(**options):
    return load_engine("tiny", device="cpu", **options)


def rms(x):
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize("option, steps", [("--steps 3", 3), ("--steps 2", 2)])
def test_what_is_said_is_the_first_chunks_own_difference(caplog, option, steps):
    exact = first_latents(load(), StreamSettings(seed=1))
    assert caplog.messages == [], "control: the exact way has nothing to say"
    found = first_latents(load(), StreamSettings(seed=1, steps=steps), chunks=2)
    error = rms(found - exact) / rms(exact)
    assert error > 1e-3
    assert caplog.messages == [
        f"{option}: on the first chunk at 48x32 the latents differ from the exact ones by {100 * error:.2f}% (RMS); leave it out for those"
    ]


def test_each_is_measured_once_a_size_and_costs_nothing_after_that(caplog, monkeypatch):
    engine, made = load(), []
    make = deviation.Deviations.make
    monkeypatch.setattr(deviation.Deviations, "make", lambda self, way, first: made.append(way.steps) or make(self, way, first))
    first_latents(engine, StreamSettings(seed=1))
    assert made == [], "control: the usual start is not made longer"
    for seed in (1, 2):
        first_latents(engine, StreamSettings(seed=seed, steps=2))
    assert made == [4, 2] and len(caplog.messages) == 1
    first_latents(engine, StreamSettings(steps=2), size=(32, 48))
    assert made == [4, 2, 4, 2] and "32x48" in caplog.messages[1]


@pytest.fixture
def rough(monkeypatch):
    """An attention kernel named sage that rounds its queries to 8 bits."""

    def attend(q, k, v):
        return attention.attention_sdpa(q.to(torch.float8_e4m3fn).to(q.dtype), k, v)

    monkeypatch.setattr(attention, "_wanted", "auto")  # what is asked for holds for the process: "auto" again when this test is over
    monkeypatch.setattr(attention, "_chosen", {})
    monkeypatch.setattr(attention, "installed", lambda name: name == "sage")
    monkeypatch.setattr(attention, "supports", lambda name, case: True)
    monkeypatch.setattr(attention, "preferred", lambda case: ("sdpa",))
    monkeypatch.setattr(attention, "CHOICE", {"cpu"})
    monkeypatch.setitem(attention.RUN, "sage", attend)


def test_8_bit_attention_is_compared_with_the_exact_kernels(caplog, rough):
    exact = first_latents(load(), StreamSettings(seed=1))
    found = first_latents(load(attention="sage"), StreamSettings(seed=1))
    (message,) = caplog.messages
    error = 100 * rms(found - exact) / rms(exact)
    assert f"--attention sage: on the first chunk at 48x32 the latents differ from the exact ones by {error:.2f}%" in message
    assert rms(found - exact) > 0 and attention.wanted_kernel() == "sage"


def test_two_options_are_measured_each_alone(caplog, rough):
    exact = first_latents(load(), StreamSettings(seed=1))
    alone = [first_latents(load(attention=kernel), StreamSettings(seed=1, steps=steps)) for kernel, steps in (("auto", 3), ("sage", 4))]
    engine = load(attention="sage")
    first_latents(engine, StreamSettings(seed=1, steps=3))
    wanted = [rms(found - exact) / rms(exact) for found in alone]
    assert list(engine.deviations.found.values()) == pytest.approx(wanted, rel=0.01)
    assert [option for option, *_ in engine.deviations.found] == ["--steps 3", "--attention sage"]


def test_a_caller_that_stops_is_heard_while_it_is_measured():
    engine = load()

    def stop(step, steps):
        raise KeyboardInterrupt

    stream = engine.open(engine.reference(torch.zeros(3, 32, 48)), StreamSettings(steps=3), on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        next(stream.push(torch.zeros(17920)))
    assert engine.deviations.found == {}
    first_latents(engine, StreamSettings(steps=3))
    assert len(engine.deviations.found) == 1, "the next stream measures"
