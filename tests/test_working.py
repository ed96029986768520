"""The memory that a chunk's work takes beside the weights: what is planned, held against what is alive in a trace of shapes."""

from __future__ import annotations

import gc
import json
import struct
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
from live_bytes import FusedAttention, LiveBytes

from livetalk_core.bench.parts import Call, RandomInputs
from livetalk_core.bench.random_engine import META, random_engine
from livetalk_core.engine import weight_plan
from livetalk_core.engine.denoiser import Cuts, DiTDenoiser
from livetalk_core.engine.engine import Engine
from livetalk_core.engine.files import find_files
from livetalk_core.engine.guidance import Guidance
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.room import Room
from livetalk_core.engine.weight_plan import WeightPlan, settle_whole
from livetalk_core.engine.working import (
    ITEM_BYTES,
    audio_key_numbers,
    decode_numbers,
    denoise_numbers,
    kept_numbers,
    passes_of,
    room_of,
    working_bytes,
)
from livetalk_core.parallel.context import SequenceParallel
from livetalk_core.parallel.group import SequenceGroup
from livetalk_core.parallel.memory import GIB, OVERHEAD_BYTES
from livetalk_core.parallel.vae import parallelize_vae
from livetalk_core.pool.place import demand_of
from livetalk_core.presets import Preset, infinitetalk, infinitetalk_4step, livetalk_14b, multitalk, nano, tiny
from livetalk_core.stream.condition import ENCODE_GROUPS
from livetalk_core.stream.session import BegunDecode
from livetalk_core.types import NoRoom

LAYERS = 2
"""Blocks that are traced; the others run in the same memory."""
SMALL, LARGE, LARGEST = (720, 416), (640, 640), (960, 960)


def short(preset: Preset) -> Preset:
    return replace(preset, dit=replace(preset.dit, num_layers=LAYERS))


def traced(preset: Preset, form: str = "16bit") -> Engine:
    engine = random_engine(short(preset), META, torch.bfloat16)
    settle_whole(engine.models.dit, WeightPlan(device=META, dtype=torch.bfloat16, form=form))
    return engine


@torch.no_grad()
def peak(prepare: Call) -> int:
    """The most bytes that a call makes, without those that `prepare` makes."""
    with FusedAttention():
        call = prepare()
        with LiveBytes("meta") as live:
            call()
    return live.most


@pytest.fixture
def lone_rank(monkeypatch):
    """torch.distributed's calls as seen by the first process of a group whose others are not there."""
    for name in ("all_gather", "all_to_all_single"):
        monkeypatch.setattr(dist, name, lambda *given, **more: None)
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda size: size)
    monkeypatch.setattr(dist, "get_global_rank", lambda size, place: place)
    monkeypatch.setattr(dist, "batch_isend_irecv", lambda letters: [])
    monkeypatch.setattr(dist, "P2POp", lambda *given: given)


def in_group(engine: Engine, ulysses: int, ring: int) -> Engine:
    parts = {"whole": ulysses * ring, "ulysses": ulysses, "ring": ring}
    group = SequenceGroup(rank=0, size=ulysses * ring, ulysses_degree=ulysses, ring_degree=ring, device=META, **parts)
    dit = engine.models.dit
    dit.sequence = SequenceParallel(group, dit.config.num_heads)
    engine.models = replace(engine.models, vae=parallelize_vae(engine.models.vae, group))
    return engine


@pytest.mark.parametrize(
    "preset, size", [(livetalk_14b(), SMALL), (multitalk(), LARGE), pytest.param(infinitetalk(), LARGEST, marks=pytest.mark.slow)]
)
def test_the_decoder_takes_what_is_planned_and_all_other_parts_take_less(preset, size):
    engine = traced(preset)
    plan = engine.plan(*size)
    make, planned = RandomInputs(engine, plan, Cuts(), 4), ITEM_BYTES * decode_numbers(engine.preset, plan)
    found = peak(make.decode)
    print(f"{preset.name} at {size}: {found / GIB:.2f} GiB alive in the decoder, {planned / GIB:.2f} planned")
    assert 0.97 * planned < found <= planned
    others = [make.condition, make.color, *([] if preset.sampler == "euler_noised" else [make.encode])]  # MultiTalk encodes a condition
    assert max(map(peak, others)) < planned


@pytest.mark.parametrize("preset", [livetalk_14b(), infinitetalk()])
def test_what_a_stream_keeps_of_its_motion_latents_is_planned_and_goes_with_them(preset):
    engine = traced(preset)
    plan = engine.plan(*SMALL)
    latents_CTHW = RandomInputs(engine, plan, Cuts(), 4).latents(plan.motion_latents)
    with torch.no_grad(), LiveBytes("meta") as live:
        begun = BegunDecode(engine.models.vae, latents_CTHW)
    planned = ITEM_BYTES * kept_numbers(engine.preset, plan)
    assert 0.9 * planned < live.now <= planned
    gc.disable()
    try:
        del begun
        assert live.now == 0, "it would stay until Python looks for circles"
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "preset, size, form, share",
    [(livetalk_14b(), SMALL, "int8", 0.95), (infinitetalk(), LARGE, "16bit", 0.65), (infinitetalk(), LARGE, "fp8", 0.95)],
)
def test_a_step_takes_at_most_what_is_planned(preset, size, form, share, monkeypatch):
    monkeypatch.setattr(weight_plan, "has_products", lambda *given: True)  # as a GPU that multiplies in 8 bits
    engine = traced(preset, form)
    plan = engine.plan(*size)
    planned = ITEM_BYTES * denoise_numbers(engine.preset, plan)
    found = peak(RandomInputs(engine, plan, Cuts(absorb_audio=False), 4).step)
    print(f"{preset.name} at {size}, {form}: {found / GIB:.2f} GiB alive in a step, {planned / GIB:.2f} planned")
    assert share * planned < found <= planned


def test_each_further_pass_in_one_batch_takes_at_most_what_is_planned(monkeypatch):
    monkeypatch.setattr(weight_plan, "has_products", lambda *given: True)
    engine = traced(infinitetalk(), "int8")
    plan = engine.plan(*SMALL)
    make = RandomInputs(engine, plan, Cuts(absorb_audio=False), 4)
    found = {}
    for guidance in (Guidance(), Guidance(text=5.0, audio=4.0, negative_LD=make.reference().text_LD)):
        monkeypatch.setattr(make, "denoiser", lambda guidance=guidance: DiTDenoiser(engine.models.dit, make.times, make.cuts, guidance))
        found[len(guidance.passes)] = peak(make.step)
    planned = ITEM_BYTES * denoise_numbers(engine.preset, plan)
    assert 0.8 * 2 * planned < found[3] - found[1] <= 2 * planned


@pytest.mark.parametrize("ulysses, ring", [(8, 1), pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(1, 3, marks=pytest.mark.slow)])
def test_a_process_of_a_group_takes_its_share(ulysses, ring, lone_rank):
    engine, count = in_group(traced(livetalk_14b()), ulysses, ring), ulysses * ring
    plan, preset = engine.plan(*SMALL), engine.preset
    make = RandomInputs(engine, plan, Cuts(), 4)
    vae = engine.models.vae.banded(plan.latent_height, plan.latent_width)
    latents_CTHW, video_CTHW = make.latents(plan.latent_frames), make.video(plan.chunk_frames)
    motion_CTHW, new_CTHW = latents_CTHW[:, : plan.motion_latents], latents_CTHW[:, plan.motion_latents :]
    step, decode = (ITEM_BYTES * numbers(preset, plan, count) for numbers in (denoise_numbers, decode_numbers))
    assert 0.7 * step < peak(make.step) <= step
    assert 0.9 * decode < peak(lambda: lambda: sum(1 for _ in BegunDecode(vae, motion_CTHW).go_on(new_CTHW))) <= decode
    assert peak(lambda: partial(vae.encode, vae.bands.cut(video_CTHW, 0, plan.spatial_stride), ENCODE_GROUPS)) < decode
    assert working_bytes(preset, plan, processes=count) < 1.4 / count * working_bytes(preset, plan)


def test_the_room_grows_with_picture_chunk_and_passes_and_that_of_33_frames_is_about_6_gib():
    usual = room_of(livetalk_14b()) - OVERHEAD_BYTES
    assert 6 * GIB < usual < 7.2 * GIB
    assert 1 < room_of(livetalk_14b(), "627") / room_of(livetalk_14b(), "416") < 1.4
    assert room_of(infinitetalk(), "960") > 1.8 * room_of(infinitetalk(), "627") > 1.8 * room_of(livetalk_14b(), "627")
    assert room_of(infinitetalk()) > room_of(infinitetalk_4step()), "three passes and two"
    assert (passes_of(infinitetalk()), passes_of(infinitetalk_4step()), passes_of(livetalk_14b())) == (3, 2, 1)
    long = [room_of(livetalk_14b(), "960x960", chunk_frames=frames) for frames in (33, 129)]
    assert long[0] < long[1], "a long chunk's tokens take more than the decoder, which makes as many frames at a time"
    assert room_of(livetalk_14b(), item_bytes=4) == OVERHEAD_BYTES + 2 * usual
    assert room_of(nano()) == room_of(tiny()) == 0, "small models are assumed to need none"


def test_another_stream_is_refused_by_what_its_own_size_takes(monkeypatch):
    engine = load_engine("tiny", device="cpu")
    preset = livetalk_14b()
    room = Room(preset, engine.models.dit, engine.device, torch.bfloat16)
    needed = {size: working_bytes(preset, preset.plan(*size)) for size in (SMALL, LARGEST)}
    monkeypatch.setattr("livetalk_core.engine.room.free_bytes", lambda device: needed[SMALL])
    room.check(preset.plan(*SMALL), num_streams=1)
    room.check(preset.plan(*LARGEST), num_streams=0)
    with pytest.raises(NoRoom, match=f"it needs {needed[LARGEST] / GIB:.1f} GiB free on each GPU"):
        room.check(preset.plan(*LARGEST), num_streams=1)


def test_gpus_that_share_the_work_need_less_room_each_in_the_pools_demand(published, tmp_path):
    dit = tmp_path / "wide.safetensors"
    header = json.dumps({"blocks.0.self_attn.norm_q.weight": {"dtype": "BF16", "shape": [5120], "data_offsets": [0, 10240]}}).encode()
    dit.write_bytes(struct.pack("<Q", len(header)) + header + bytes(10240))
    demand = demand_of(replace(find_files(published), dit=(dit,), kind="infinitetalk"), "640x640")
    rooms = [room_of(infinitetalk(), "640x640", processes=count) for count in (1, 2, 4)]
    needs = [demand.on_each("resident", count) for count in (1, 2, 4)]
    assert [needs[0] - each for each in needs] == [rooms[0] - each for each in rooms]
    assert rooms[2] < 0.6 * rooms[0] and needs[0] > rooms[0]


def test_audio_keys_that_are_not_absorbed_are_as_many_as_planned():
    engine = load_engine("tiny", device="cpu")
    plan = engine.plan(64, 64)
    make = RandomInputs(engine, plan, Cuts(absorb_audio=False), 1)
    denoiser = make.denoiser()
    with torch.no_grad():
        denoiser.hold_reference(make.reference())
        denoiser.hold_window(make.window(), engine.device)
    held = sum(part.numel() for keys in denoiser.batches[0].audio for part in keys)
    assert held == audio_key_numbers(engine.preset.dit, plan)
