"""Recorded calls, with a recorder that does them again on the tensors they were recorded with: bit for bit what is not recorded."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from livetalk_core.engine.graphs import Graphed, graph_models
from livetalk_core.engine.load import load_engine
from livetalk_core.types import StreamSettings


class Again:
    """Knows nothing of a call's arguments but where they lay when it was recorded."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def record(self, call):
        self.recorded += 1
        result = call()
        for old in tree_leaves(result):
            old.fill_(torch.nan)

        def replay():
            self.replayed += 1
            for old, new in zip(tree_leaves(result), tree_leaves(call()), strict=True):
                old.copy_(new)

        return replay, result


class Unable:
    def record(self, call):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def talk(engine, chunks=3, seed=1, prompt="a person", size=(48, 32)):
    pixels_CHW = torch.linspace(-1, 1, 3 * size[0] * size[1]).view(3, size[1], size[0])
    latents = []
    stream = engine.open(engine.reference(pixels_CHW, prompt), StreamSettings(seed=seed), on_latents=latents.append)
    sound = torch.sin(torch.arange(chunks * engine.plan(*size).new_samples) / 9) * 0.2
    return torch.cat([chunk.frames_THWC for chunk in stream.push(sound)]), torch.stack(latents)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("broken", [False, True])
def test_streams_are_bit_equal_and_a_forgotten_input_is_seen(broken, monkeypatch):
    eager, engine, recorder = load_engine("tiny", device="cpu"), load_engine("tiny", device="cpu"), Again()
    graph_models(engine.models.dit, engine.models.vae, recorder)
    asked = [{}, {"seed": 2}, {"prompt": "a dog"}, {"chunks": 1, "size": (32, 48)}, {}]
    if broken:
        monkeypatch.setattr("livetalk_core.engine.graphs.Graph.holds", lambda self, i, leaf: i != 0 and self.sources[i] is not None)
    equal = [same(talk(engine, **how), talk(eager, **how)) for how in asked]
    assert all(equal) != broken, "control: only the first input of each call is copied"
    assert recorder.replayed > recorder.recorded > 3


def test_what_was_given_out_is_not_written_over():
    double = Graphed(lambda x: 2 * x, Again())
    answers = [double(torch.full((3,), float(i))) for i in range(5)]
    assert [answer[0].item() for answer in answers] == [0, 2, 4, 6, 8]


def test_a_tensor_that_stays_is_copied_once_and_again_when_it_is_changed():
    recorder = Again()
    add = Graphed(lambda x, y: x + y, recorder)
    kept = torch.ones(3)
    for i in range(4):
        assert add(torch.full((3,), float(i)), kept)[0] == i + 1
    (graph,) = add.graphs.values()
    graph.held[1].fill_(10)
    assert add(torch.zeros(3), kept)[0] == 10, "control: it is not copied"
    kept.add_(1)
    assert add(torch.zeros(3), kept)[0] == 2
    assert add(torch.zeros(3), kept.clone().add_(1))[0] == 3


def test_no_more_graphs_than_asked_for_and_other_constants_are_other_graphs():
    recorder = Again()
    times = Graphed(lambda x, n: x * n, recorder, most=2)
    for n in (2, 3, 4, 2, 3, 4, 2, 3, 4):
        assert times(torch.ones(2), n)[0] == n
    assert recorder.recorded == len(times.graphs) == 2
    with pytest.raises(AssertionError, match="may hold tensors"):
        times(torch.ones(2), [torch.nn.Identity()])


def test_what_cannot_be_recorded_is_done_as_it_is_and_said_once(caplog):
    double = Graphed(lambda x: 2 * x, Unable())
    assert [double(torch.full((1,), float(i))).item() for i in range(4)] == [0, 2, 4, 6]
    assert caplog.messages == [
        "CUDA graphs are left out, since one could not be recorded: operation not permitted when stream is capturing"
    ]


def test_what_is_only_measured_is_not_recorded():
    engine, recorder = load_engine("tiny", device="cpu", fast="fp8"), Again()
    engine.deviations.graphed = graph_models(engine.models.dit, engine.models.vae, recorder)
    eager = load_engine("tiny", device="cpu", fast="fp8")
    assert same(talk(engine), talk(eager)), "recorded with the products of the exact way, it would not be"
    assert engine.deviations.found == eager.deviations.found
    assert recorder.replayed > 0 and not engine.models.dit.run_blocks.paused
