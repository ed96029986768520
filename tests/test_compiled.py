"""The compiled form: same results as the eager one, one graph for all blocks, and nothing compiled anew while one speaks."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from made import HANG_S
from torch import nn
from torch._dynamo.utils import counters

from livetalk_core.engine import compile as compiled
from livetalk_core.engine.compile import compile_models, compile_vae
from livetalk_core.engine.load import build_random, load_engine
from livetalk_core.engine.warm import warm_up
from livetalk_core.models.vae import ActivatedNorm, CausalVAE, VAEConfig
from livetalk_core.parallel import context
from livetalk_core.parallel.context import SequenceParallel
from livetalk_core.parallel.group import close_group, connect
from livetalk_core.parallel.offload import offload_blocks
from livetalk_core.parallel.vae import parallelize_vae
from livetalk_core.presets import PROMPT, nano, tiny
from livetalk_core.types import StreamSettings

CPU = torch.device("cpu")


def small_engine(num_layers=3):
    """Of tiny size, with a small convolutional VAE, which takes less to compile."""
    preset = replace(tiny(), dit=replace(tiny().dit, num_layers=num_layers, in_dim=36, out_dim=16, text_len=512))
    vae = replace(nano().vae, z_dim=16, width=8, blocks=1, fine_width=8, fine_blocks=1)
    return build_random(replace(preset, vae=vae), CPU, torch.float32)


@pytest.fixture
def traced(monkeypatch):
    """Graphs are made, and run as they are: quick, and what is counted is the same."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def talk(engine, prompt=PROMPT, chunks=2, size=(48, 32)):
    pixels_CHW = torch.linspace(-1, 1, 3 * size[0] * size[1]).view(3, size[1], size[0])
    plan = engine.plan(*size)
    stream = engine.open(engine.reference(pixels_CHW, prompt), StreamSettings(seed=1))
    sound = torch.sin(torch.arange(chunks * plan.new_samples) / 9) * 0.2
    return torch.cat([chunk.frames_THWC for chunk in stream.push(sound)])


@pytest.mark.slow
def test_no_chunk_step_stream_or_prompt_after_the_first_two_chunks_compiles_anew(traced):
    engine = small_engine()
    eager = talk(engine)
    compile_models(engine.models.dit, engine.models.vae, CPU)
    assert torch.equal(talk(engine), eager)
    made = traced()
    assert made > 0
    talk(engine, PROMPT.replace("person", "small dog"), chunks=3)
    talk(engine, chunks=3)
    assert traced() == made
    assert sum(counters["graph_break"].values()) == 0
    talk(engine, size=(32, 48))
    assert traced() > made, "control: another shape is compiled"


def test_all_blocks_share_their_graphs(traced):
    made = []
    for num_layers in (3, 6):
        torch._dynamo.reset()
        counters.clear()
        engine = small_engine(num_layers)
        compile_models(engine.models.dit, None, CPU)
        talk(engine)
        made.append(traced())
    assert made == [3, 3], "one for every block but the last, and the last one's: after one motion latent, and after more"


def test_after_warming_up_nothing_is_compiled(traced):
    engine = small_engine()
    compile_models(engine.models.dit, engine.models.vae, CPU)
    assert warm_up(engine, "48x32") > 0
    made = traced()
    talk(engine, chunks=3)
    assert traced() == made > 0


def test_what_is_only_measured_is_not_compiled(traced):
    engine = small_engine()
    compile_models(engine.models.dit, None, CPU)
    engine.deviations.compiled = True
    engine.deviations.steps = engine.preset.steps + 1
    talk(engine)
    assert len(engine.deviations.found) == 1 and traced() == 3, "control: as many as without measuring"


def test_the_published_vaes_decoder_is_a_whole_graph_for_each_kind_of_piece(traced):
    torch.manual_seed(0)
    engine = load_engine("tiny", device="cpu", compile=True)
    latents = torch.randn(16, 9, 3, 4)
    eager = load_engine("tiny", device="cpu").models.vae
    eager.load_state_dict(engine.models.vae.state_dict())
    for _ in range(2):
        pieces = [torch.cat(list(vae.decode(latents, (1, 4))), dim=1) for vae in (engine.models.vae, eager)]
        assert (pieces[0] - pieces[1]).abs().max() <= 1e-5
        assert traced() == 3


@pytest.fixture
def one_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield connect([0], 1, 1, CPU)
    close_group()


def test_a_groups_exchanges_stay_out_of_the_graph(traced, one_group, monkeypatch):
    """Of one process, whose exchanges are made all the same."""
    engine, calls = small_engine(), Counter()
    eager, exchange = talk(engine), context.sequence_attention

    def counted(*inputs):
        calls["attend"] += 1
        return exchange(*inputs)

    monkeypatch.setattr(context, "sequence_attention", counted)
    dit = engine.models.dit
    dit.sequence = SequenceParallel(one_group, dit.config.num_heads, compiled=True)
    compile_models(dit, None, CPU)
    assert torch.equal(talk(engine), eager)
    assert calls["attend"] == 2 * 4 * 3, "chunks, steps and blocks: called every time, not once when traced"
    made = traced()
    talk(engine)
    assert traced() == made > 0


def test_a_vae_that_a_group_shares_compiles_few_graphs_for_all_layers_pieces_and_sizes(traced, one_group):
    """Only norms are compiled: few graphs, also for another size."""
    config = VAEConfig(dim=4, dim_mult=(1, 2), num_res_blocks=2, temporal_downsample=(True,))
    torch.manual_seed(0)
    plain = CausalVAE(config).eval().requires_grad_(False)
    made, shared = [], parallelize_vae(plain, one_group)
    inputs = [(torch.randn(16, 9, h, w), torch.rand(3, 5, 2 * h, 2 * w)) for h, w in ((6, 8), (8, 6), (6, 8))]
    expected = [through(shared, *each) for each in inputs]
    compile_vae(shared)
    for each, (frames, latents) in zip(inputs, expected, strict=True):
        found = through(shared, *each)
        assert torch.equal(found[0], frames) and torch.equal(found[1], latents)
        made.append(traced())
    layers = sum(isinstance(layer, ActivatedNorm) for layer in plain.modules())
    assert layers == 30 and made == [3, 4, 4] and not counters["graph_break"]


def through(vae, latents_CTHW, video_CTHW):
    return torch.cat(list(vae.decode(latents_CTHW, (3,))), dim=1), vae.encode(video_CTHW)


def test_the_published_vaes_encoder_is_a_whole_graph_too(traced):
    vae = load_engine("tiny", device="cpu").models.vae
    video = torch.rand(3, 5, 32, 48)
    eager = vae.encode(video)
    compile_vae(vae)
    for _ in range(2):
        assert (vae.encode(video) - eager).abs().max() <= 1e-5
        assert traced() == 1 and not counters["graph_break"]


def test_a_group_that_does_not_know_of_the_compiler_is_not_compiled(traced, one_group):
    engine = small_engine()
    engine.models.dit.sequence = SequenceParallel(one_group, engine.models.dit.config.num_heads)
    with pytest.raises(AssertionError, match="would be traced"):
        compile_models(engine.models.dit, None, CPU)


@pytest.mark.slow
def test_what_is_really_compiled_gives_the_same_to_1e_5(tmp_path, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    engine, seen = small_engine(), []
    reference = engine.reference(torch.linspace(-1, 1, 3 * 48 * 32).view(3, 32, 48))
    for compile in (False, True):
        if compile:
            compile_models(engine.models.dit, engine.models.vae, CPU)
        latents = []
        stream = engine.open(reference, StreamSettings(seed=1), on_latents=latents.append)
        list(stream.push(torch.sin(torch.arange(2 * stream.session.plan.new_samples) / 9) * 0.2))
        seen.append(torch.stack(latents))
    assert (seen[0] - seen[1]).abs().max() <= 1e-5
    assert any(tmp_path.rglob("*.so")), "kept on disk"


@pytest.mark.slow
def test_compiled_forms_are_kept_in_a_folder_of_the_user(tmp_path):
    """In a process of its own, where nothing has brought in the compiler before."""
    code = (
        "import os, livetalk_core.engine.load as l; l.load_engine('tiny', device='cpu', compile=True);"
        "from torch._inductor.runtime.cache_dir_utils import cache_dir; print(cache_dir())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert done.stdout.strip() == str(tmp_path / "livetalk" / "compiled"), done.stderr


def test_without_a_compiler_it_is_said_in_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setenv("PATH", "/nowhere")
    from torch._inductor import cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler and found none; install g\\+\\+") as raised:
        compiled.require_compiler(CPU)
    assert "\n" not in str(raised.value)
    cpp_builder.cpp_compiler_search.cache_clear()


def test_weights_that_come_and_go_are_not_compiled():
    engine = small_engine()
    offload_blocks(engine.models.dit, torch.device("meta"), torch.float32)
    with pytest.raises(ValueError, match="3 of 3 blocks are in host memory; leave it out"):
        compile_models(engine.models.dit, None, torch.device("meta"))
    with pytest.raises(ValueError, match="memory='sharded' works without compile"):
        load_engine("tiny", "cpu", memory="sharded", compile=True)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="weights='fp4' must be one of auto, 16bit, int8, fp8"):
        load_engine("tiny", device="cpu", weights="fp4")
