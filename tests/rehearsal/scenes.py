"""What is rehearsed: `python scenes.py NAME` walks one use of the 14B model at full width, with a few layers of each kind."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from functools import partialmethod

import torch
import torch.distributed as dist
from fake_gpu import CUDA, FakeGpu
from fake_ranks import play_all
from torch import Tensor, nn
from torch._dynamo.utils import counters

from livetalk_core.bench.random_engine import random_engine
from livetalk_core.engine.assemble import assemble
from livetalk_core.engine.engine import Engine
from livetalk_core.engine.options import EngineOptions
from livetalk_core.engine.weight_plan import WeightPlan, settle_whole
from livetalk_core.models import attention
from livetalk_core.parallel import train
from livetalk_core.parallel.offload import offload_blocks
from livetalk_core.parallel.train import shard
from livetalk_core.pool import wire
from livetalk_core.pool.loop import CancelFlag, Worker
from livetalk_core.pool.memory import WORD_BYTES, Segment
from livetalk_core.pool.packing import Inbox, pack
from livetalk_core.presets import Preset, livetalk_14b
from livetalk_core.train.draws import Draws
from livetalk_core.train.learner import Learner
from livetalk_core.train.net import VelocityNet, blocks_of
from livetalk_core.train.presets import sft_14b
from livetalk_core.train.sample import Sample, decode_tensors
from livetalk_core.train.sft import AdaptStage
from livetalk_core.types import Reference, StreamSettings

WIDTH, HEIGHT = 720, 416
SECONDS = 3
"""Two chunks and the start of a third."""
FRAMES = 25 * SECONDS
GRAPHS_OF_A_RANK = 64
"""More would mean that layers of the VAE are compiled one by one."""


def preset(blocks: int = 3) -> Preset:
    """The published model's widths, and all the audio layers, since they are part of a width."""
    full = livetalk_14b()
    return replace(full, dit=replace(full.dit, num_layers=blocks), text=replace(full.text, layers=2), image=replace(full.image, layers=3))


def make_engine(blocks: int = 3) -> Engine:
    return random_engine(preset(blocks), CUDA, torch.bfloat16)


def make_reference(engine: Engine, people: int = 1) -> Reference:
    masks = torch.ones(3, HEIGHT, WIDTH) if people == 2 else None
    reference = engine.reference(torch.zeros(3, HEIGHT, WIDTH), speaker_masks_KHW=masks)
    wrong = [name for name, value in vars(reference).items() if isinstance(value, Tensor) and value.device != CUDA]
    assert not wrong, f"{wrong} of the reference are not on the GPU"
    return reference


def talk(engine: Engine, people: int = 1, frames: int = FRAMES) -> None:
    """A picture, a prompt and three seconds of sound to frames."""
    stream = engine.open(make_reference(engine, people), StreamSettings(seed=1), people)
    chunks = [*stream.push(torch.zeros(people, 16000 * SECONDS)), *stream.finish()]
    assert {(chunk.frames_THWC.device.type, chunk.frames_THWC.dtype) for chunk in chunks} == {("cpu", torch.uint8)}
    assert sum(len(chunk.frames_THWC) for chunk in chunks) == frames
    assert {chunk.frames_THWC.shape[1:] for chunk in chunks} == {(HEIGHT, WIDTH, 3)}


def plain() -> None:
    talk(make_engine())


def two_speakers() -> None:
    talk(make_engine(), people=2)


def compiled() -> None:
    trace_only()
    talk(assemble(make_engine(), EngineOptions(compile=True)))
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"], counters["graph_break"]


def trace_only() -> None:
    """What is compiled from now on is traced as for a compiler, and run as it is."""
    nn.Module.compile = partialmethod(nn.Module.compile, backend="eager")
    attention.works = lambda name, *case: name in attention.BACKENDS  # tried on a real tensor while a compiler traces


def offloaded() -> None:
    engine = make_engine()
    with GPU.fake_host():
        dit = engine.models.dit.to("cpu")
        dit.runners = offload_blocks(dit, CUDA, torch.bfloat16, resident=1)
    talk(engine)


def fp8() -> None:
    engine = make_engine()
    settle_whole(engine.models.dit, WeightPlan(device=CUDA, dtype=torch.bfloat16, form="fp8"))
    talk(engine)
    assert engine.models.dit.blocks[0].self_attn.q.products, "its products are in 8 bits"


def ranks(size: int, ulysses: int, ring: int) -> None:
    for group in play_all(size, ulysses, ring):
        shape = (FRAMES, HEIGHT, WIDTH) if group.rank == 0 else (0, HEIGHT, WIDTH)
        talk_in(assemble(make_engine(blocks=2), EngineOptions(), group), *shape)


def compiled_ranks() -> None:
    """Blocks and norms are traced; the exchanges between them are not. A second stream compiles nothing anew."""
    trace_only()
    for group in play_all(2, 2, 1):
        engine = assemble(make_engine(blocks=2), EngineOptions(compile=True), group)
        shape, before = (FRAMES if group.rank == 0 else 0, HEIGHT, WIDTH), counters["stats"]["unique_graphs"]
        talk_in(engine, *shape)
        made = counters["stats"]["unique_graphs"]
        talk_in(engine, *shape)
        assert counters["stats"]["unique_graphs"] == made, "a second stream is compiled anew"
        assert 0 < made - before < GRAPHS_OF_A_RANK, f"{made - before} graphs"


def talk_in(engine: Engine, *shape: int) -> None:
    stream = engine.open(make_reference(engine), StreamSettings(seed=1))
    chunks = [*stream.push(torch.zeros(16000 * SECONDS)), *stream.finish()]
    frames_THWC = torch.cat([chunk.frames_THWC for chunk in chunks])
    assert (tuple(frames_THWC.shape[:3]), frames_THWC.device.type) == (shape, "cpu"), frames_THWC.shape


def worker() -> None:
    """A pool's only process: orders in, answers and frames in shared memory out."""
    slot, stop = Segment.create("slot"), Segment.create("stop", WORD_BYTES)
    there, here = socket.socketpair()
    process = Worker(here, stop.fd, [slot.fd])
    process.engine, process.cancel_flag = make_engine(), CancelFlag(CUDA, grouped=False)

    def ask(command: object) -> wire.Done:
        there.setblocking(False)
        answer = process.answer(wire.Order(job=1, command=command, slot=0))
        assert isinstance(answer, wire.Done), answer
        return next(Inbox().feed(pack(answer)))

    rows = process.engine.encode_rows("someone", torch.zeros(3, HEIGHT, WIDTH))
    reference = ask(wire.Prepare(pixels_CHW=torch.zeros(3, HEIGHT, WIDTH), options=rows)).value
    ask(wire.Open(session=1, reference=reference, settings=StreamSettings(), people=1, latents=True))
    done, frames = ask(wire.Push(session=1, blocks=[torch.zeros(16000 * SECONDS)])), 0
    while done.value is not None:
        frames += len(slot.take(done.parcel))
        done = ask(wire.Next(session=1))
    assert frames == FRAMES // 28 * 28
    ask(wire.Close(session=1))
    ask(wire.Stats())


def training() -> None:
    """A step of Stage 1 on one of 32 GPUs: two passes, clipping, the optimizer, the average of the weights. No weights are loaded."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=32)
    recipe = sft_14b()
    config = replace(recipe.model.dit, num_layers=2)
    train.set_model_state_dict = lambda *args, **options: None
    net = shard(lambda: VelocityNet(config), {}, blocks_of, CUDA, compute=torch.bfloat16, checkpoint_activations=True)
    learner = Learner(net, recipe.stage.optim, ema_decay=0.9)
    stage = AdaptStage(recipe.stage, learner, torch.zeros(20, config.text_dim, device=CUDA))
    passes = [[(make_sample(f"clip {i}").to(CUDA), Draws.of(i))] for i in range(2)]
    found = stage.step(passes, Draws.of("all"), 0)
    assert {str(value.device) for value in found.values()} == {"cuda:0"}, found


def make_sample(key: str) -> Sample:
    """A clip of two chunks, as it is stored."""
    plan = livetalk_14b().plan(WIDTH, HEIGHT)
    frames = plan.motion_frames + 2 * plan.new_frames
    sizes = {
        "latents": (2, *plan.latent_shape), "reference": plan.latent_shape, "pixels": (3, HEIGHT, WIDTH), "text": (20, 4096),
        "image": (257, 1280), "features": (frames + 4, 12, 768), "sound": (640 * frames,), "mouth": plan.latent_shape[2:],
    }  # fmt: skip
    whole = {"pixels": torch.uint8, "sound": torch.int16, "mouth": torch.uint8}
    return decode_tensors(key, {name: torch.zeros(size, dtype=whole.get(name, torch.bfloat16)) for name, size in sizes.items()}, plan)


def wrong_device() -> None:
    """The control: a weight that was left on the host."""
    engine = make_engine()
    bias = torch.zeros(engine.preset.dit.ffn_dim, dtype=torch.bfloat16)
    engine.models.dit.blocks[1].ffn[0].bias = nn.Parameter(bias, requires_grad=False)
    talk(engine)


def wrong_type() -> None:
    """The control: a layer in another precision."""
    engine = make_engine()
    engine.models.dit.blocks[1].self_attn.v.float()
    talk(engine)


def ranks_that_disagree() -> None:
    """The control: one rank has less memory, and nobody asks the others."""
    for group in play_all(2, 2, 1):
        engine = assemble(make_engine(blocks=2), EngineOptions(), group)
        if group.rank == 0:
            torch.distributed.all_reduce(torch.zeros(2, device=CUDA), group=group.whole)
        talk_in(engine, FRAMES if group.rank == 0 else 0, HEIGHT, WIDTH)


SCENES = {
    **{
        scene.__name__: scene
        for scene in (
            plain,
            two_speakers,
            compiled,
            compiled_ranks,
            offloaded,
            fp8,
            worker,
            training,
            wrong_device,
            wrong_type,
            ranks_that_disagree,
        )
    },
    "two_ranks": lambda: ranks(2, 2, 1),
    "eight_ranks": lambda: ranks(8, 8, 1),
    "ring": lambda: ranks(3, 1, 3),
}

if __name__ == "__main__":
    GPU = FakeGpu()
    with GPU:
        SCENES[sys.argv[1]]()
    print("rehearsed", sys.argv[1])
