"""The DiT on several processes against the same model in one process. As a script, this file is one of those processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from made import HANG_S

from livetalk_core.cli.end import leave
from livetalk_core.engine.denoiser import absorbed_bytes
from livetalk_core.models.attention import attention, kernel_as
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.speakers import line_positions, reference_likeness
from livetalk_core.parallel import group as group_module
from livetalk_core.parallel import ring as ring_module
from livetalk_core.parallel.context import SequenceParallel, SliceAttention, usp_attention
from livetalk_core.parallel.exchange import gather_parts, share_first
from livetalk_core.parallel.group import SequenceGroup, check_kernel, check_version, close_group, connect, init_group
from livetalk_core.parallel.ring import attention_lse, merge, sequence_attention
from livetalk_core.parallel.topology import check_degrees, choose_topology, slice_lengths

WORLD = 8
TOPOLOGIES = [(2, 1), (1, 2), (4, 1), (2, 2), (1, 4), (8, 1), (4, 2), (2, 4), (1, 8)]
EVEN, UNEVEN = (4, 8, 8), (3, 6, 10)
"""Latent frames, rows and columns: 64 tokens, which every group divides, and 45, which none does."""
CASES = [("even", EVEN, 1), ("uneven", UNEVEN, 1), ("two speakers", UNEVEN, 2)]
LIMIT = 1e-5


def small_model() -> AudioDiT:
    """Eight heads, so that every Ulysses degree up to 8 divides them."""
    torch.manual_seed(0)
    config = DiTConfig(
        dim=64, ffn_dim=96, num_heads=8, num_layers=2, freq_dim=32, text_dim=32, text_len=16, image_dim=16,
        audio_dim=48, audio_hidden=24, audio_width=16, audio_tokens=4,
    )  # fmt: skip
    return AudioDiT(config).eval()


def inputs(model: AudioDiT, shape: tuple[int, int, int], people: int, frames: slice | None = None) -> tuple:
    """The arguments of a call, with the audio keys of `frames`: by default those that the model's process needs."""
    draw = torch.Generator().manual_seed(1)
    latent, condition = (torch.randn(1, channels, *shape, generator=draw) for channels in (16, 20))
    text, image = torch.randn(1, 9, 32, generator=draw), torch.randn(1, 257, 16, generator=draw)
    audio = torch.randn(1, people, 4 * shape[0] - 3, 5, 48, generator=draw)
    masks = None
    if people == 2:
        masks = torch.zeros(3, *shape[1:])
        masks[0, :, :4], masks[1, :, 6:], masks[2, :, 4:6] = 1, 1, 1
    time_embedding = model.embed_time(torch.tensor([700.0]))
    frames = frames or frames_of(model, shape)
    return latent, condition, time_embedding, model.embed_context(text, image), model.embed_audio(audio, frames), masks


def frames_of(model: AudioDiT, shape: tuple[int, int, int]) -> slice:
    """The latent frames of the model's process."""
    return model.sequence.frames(shape[0], shape[1] * shape[2] // 4)


def fake_usp(group, lengths):
    """xfuser's attention as documented: equal slices, head-major; keys beyond `valid_kv_len` are masked."""

    def usp(q, k, v, *, combine_qkv_a2a, attention_kwargs):
        assert q.shape[2] == k.shape[2] == max(lengths) and combine_qkv_a2a
        valid = (attention_kwargs or {}).get("valid_kv_len", max(lengths) * group.size)
        k, v = (gather_parts(x, 2, [max(lengths)] * group.size, group.whole)[:, :, :valid] for x in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return usp


class Padded(SliceAttention):
    """The control: equal slices padded with zeros, and the padding attended to."""

    def attend(self, q, k, v):
        longest = max(self.lengths)
        filled = [torch.nn.functional.pad(x, (0, 0, 0, 0, 0, longest - x.shape[1])) for x in (q, k, v)]
        return sequence_attention(*filled, [longest] * self.group.size, self.group)[:, : q.shape[1]]


class OwnKeys(SliceAttention):
    """The control: each process attends only to its own tokens."""

    def attend(self, q, k, v):
        return attention(q, k, v)


class OwnExtremes(SliceAttention):
    """The control: each process scales likeness by the extremes of its own tokens."""

    def locate(self, q, k, masks, tokens_per_frame):
        first = share_first(k, 1, tokens_per_frame, self.lengths, self.group.whole)
        likeness = reference_likeness(q, first, masks)
        return line_positions(likeness, likeness.amin(-1, keepdim=True), likeness.amax(-1, keepdim=True))


class Xfuser(SliceAttention):
    def attend(self, q, k, v):
        return usp_attention(fake_usp(self.group, self.lengths), q, k, v, self.lengths)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (found - expected).abs().max().item()


@torch.no_grad()
def run_process(rank: int, folder: Path) -> None:
    """Every case in every topology; process 0 writes the errors."""
    world = init_group(
        rank=rank, size=WORLD, init_method=f"file://{folder}/meet", device=torch.device("cpu"), ulysses_degree=8, ring_degree=1
    )
    errors, plain = {}, small_model()
    expected = {name: plain(*inputs(plain, *case)) for name, *case in CASES} if rank == 0 else {}
    for ulysses, ring in TOPOLOGIES:
        group = connect(range(ulysses * ring), ulysses, ring, torch.device("cpu"))
        if group is None:
            continue
        model = small_model()
        model.sequence = SequenceParallel(group, model.config.num_heads)
        for name, *case in CASES:
            arguments = inputs(model, *case)
            found, again = (model(*arguments) for _ in range(2))
            with kernel_as("cudnn"):
                other = model(*arguments)
            alike = gather_parts(found[None], 0, [1] * group.size, group.whole)
            if rank == 0:
                errors[f"{ulysses} x {ring} {name}"] = difference(found, expected[name])
                errors[f"{ulysses} x {ring} {name} by any kernel"] = difference(other, expected[name])
                errors[f"{ulysses} x {ring} {name} again"] = difference(found, again)
                errors[f"{ulysses} x {ring} {name} elsewhere"] = difference(alike, found[None])
    errors |= run_controls(world, expected)
    if rank == 0:
        (folder / "errors.json").write_text(json.dumps(errors))
    close_group()


CONTROLS = {
    "padded keys attended": ("uneven", Padded),
    "own keys only": ("uneven", OwnKeys),
    "own extremes only": ("two speakers", OwnExtremes),
    "xfuser": ("uneven", Xfuser),
}


def run_controls(group, expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """The uneven cases in all eight processes, with another attention."""
    errors, lengths = {}, slice_lengths(45, WORLD)
    for name, (case, kind) in CONTROLS.items():
        model = small_model()
        model.sequence = SequenceParallel(group, model.config.num_heads)
        model.sequence.attentions[45] = kind(lengths, group)
        found = model(*inputs(model, *next(rest for name, *rest in CASES if name == case)))
        errors |= {name: difference(found, expected[case])} if expected else {}
    return errors


def start_processes(script: str, size: int, folder: Path) -> None:
    """Run `size` processes of this script to their end; all are killed when one fails or hangs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(script).parents[1])}
    logs = [folder / f"{rank}.log" for rank in range(size)]
    started = [
        subprocess.Popen([sys.executable, script, str(rank), str(folder)], env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)
        for rank, log in enumerate(logs)
    ]
    deadline = time.monotonic() + HANG_S
    try:
        while (codes := [process.poll() for process in started]) != [0] * size:
            failed = [rank for rank, code in enumerate(codes) if code]
            assert not failed, f"process {failed[0]} failed:\n{logs[failed[0]].read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no end after {HANG_S} s:\n{logs[0].read_text()[-3000:]}"
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("dit")
    start_processes(__file__, WORLD, folder)
    return json.loads((folder / "errors.json").read_text())


@pytest.mark.parametrize("case", [name for name, _, _ in CASES])
@pytest.mark.parametrize(("ulysses", "ring"), TOPOLOGIES)
def test_a_group_gives_one_processs_velocity_every_time_and_on_every_process(errors, ulysses, ring, case):
    assert errors[f"{ulysses} x {ring} {case}"] <= LIMIT
    assert errors[f"{ulysses} x {ring} {case} by any kernel"] <= LIMIT
    assert errors[f"{ulysses} x {ring} {case} again"] == 0
    assert errors[f"{ulysses} x {ring} {case} elsewhere"] == 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_a_process_makes_the_audio_keys_of_its_own_tokens_frames_only(size):
    """At 720 x 416: the frames of all processes cover the chunk, and each has its tokens' frames and no more."""
    model, tokens = small_model(), 1170
    lengths = slice_lengths(9 * tokens, size)
    features = torch.randn(1, 1, 33, 5, 48, generator=torch.Generator().manual_seed(0))
    whole = model.embed_audio(features)
    for rank in range(size):
        model.sequence = SequenceParallel(SimpleNamespace(rank=rank, size=size, ulysses_degree=1, ring_degree=size), 8)
        first = sum(lengths[:rank])
        needed = sorted({token // tokens for token in range(first, first + lengths[rank])})
        frames = model.sequence.frames(9, tokens)
        assert [*range(9)][frames] == needed
        for mine, all_keys in zip(model.embed_audio(features, frames), whole, strict=True):
            assert mine.k_BMNK.shape[0] == len(needed) and torch.equal(mine.v_BMNK, all_keys.v_BMNK[frames])


def test_on_8_processes_audio_keys_take_a_third_of_the_memory_or_less():
    """Of the 9.4 GB that they take in one process at 14B."""
    taken = []
    for rank in range(8):
        sequence = SequenceParallel(SimpleNamespace(rank=rank, size=8, ulysses_degree=8, ring_degree=1), 40)
        frames = sequence.frames(9, 1170)
        taken.append(absorbed_bytes(DiTConfig(), frames.stop - frames.start, torch.bfloat16) / 1e9)
    assert max(taken) < 3.2 and sum(taken) / 8 < 2.5


@pytest.mark.parametrize("control", ["padded keys attended", "own keys only", "own extremes only"])
def test_the_comparison_notices_each_control(errors, control):
    assert errors[control] > 10 * LIMIT


def test_padded_slices_reach_xfuser_with_the_number_of_valid_keys(errors):
    assert errors["xfuser"] <= LIMIT


def test_slices_cover_tokens_that_the_processes_do_not_divide():
    assert slice_lengths(10530, 8) == [1317] * 7 + [1311]
    assert slice_lengths(10530, 4) == [2633] * 3 + [2631]
    assert all(sum(slice_lengths(tokens, 8)) == tokens for tokens in range(64, 200))


def test_attention_over_two_halves_of_the_keys_merges_to_the_whole():
    q, k, v = (torch.randn(2, length, 3, 8, generator=torch.Generator().manual_seed(length)) for length in (5, 7, 7))
    found, _ = merge(*attention_lse(q, k[:, :3], v[:, :3]), *attention_lse(q, k[:, 3:], v[:, 3:]))
    scores = torch.einsum("blnk,bmnk->bnlm", q, k) / 8**0.5
    expected = torch.einsum("bnlm,bmnk->blnk", scores.softmax(-1), v)
    assert difference(found, expected) <= 1e-6
    assert difference(attention_lse(q, k, v)[1][..., 0], scores.logsumexp(-1).transpose(1, 2)) <= 1e-6


@pytest.mark.parametrize(
    ("num_gpus", "heads", "degrees"),
    [
        (1, 40, (1, 1)),
        (2, 40, (2, 1)),
        (3, 40, (1, 3)),
        (6, 40, (2, 3)),
        (7, 40, (1, 7)),
        (8, 40, (8, 1)),
        (16, 40, (8, 2)),
        (4, 6, (2, 2)),
    ],
)
def test_the_topology_uses_the_largest_ulysses_degree_that_divides_the_heads(num_gpus, heads, degrees):
    topology = choose_topology(num_gpus, heads, tokens=10530)
    assert topology[:2] == degrees
    assert str(heads) in topology.reason and str(num_gpus) in topology.reason


def test_too_many_processes_for_the_tokens_are_refused_with_a_number_that_works():
    with pytest.raises(ValueError, match="8 processes are too many for tokens=33; use 7 processes"):
        choose_topology(8, 40, tokens=33)
    with pytest.raises(ValueError, match="num_gpus=0 must be 1 or more"):
        choose_topology(0, 40, tokens=33)


def test_degrees_that_do_not_fit_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="must divide the model's 40 heads; for 6 processes choose ulysses x ring = 1 x 6 or 2 x 3$"):
        check_degrees(3, 2, 6, 40)
    with pytest.raises(ValueError, match="must be the group's size 8; for 40 heads choose 1 x 8 or 2 x 4 or 4 x 2 or 8 x 1$"):
        check_degrees(4, 1, 8, 40)


def test_a_kernel_that_cannot_run_here_is_refused():
    with pytest.raises(ValueError, match="kernel='xfuser' needs CUDA, and the device is cpu"):
        check_kernel("xfuser", torch.device("cpu"))
    with pytest.raises(ValueError, match="kernel='usp' must be one of plain, xfuser"):
        check_kernel("usp", torch.device("cpu"))
    with pytest.raises(ValueError, match="xfuser 0.6.1 is too old"):
        check_version("0.6.1")


def test_xfuser_is_used_only_by_name(monkeypatch):
    tried = []
    monkeypatch.setattr(group_module, "check_kernel", lambda *arguments: None)
    monkeypatch.setattr(group_module, "try_xfuser", lambda *arguments: tried.append(arguments))
    monkeypatch.setattr(group_module, "connect", lambda *arguments: lonely_group(1))
    monkeypatch.setattr(group_module.dist, "init_process_group", lambda *arguments, **named: None)
    here = {"rank": 0, "size": 1, "init_method": "file:///nowhere", "device": torch.device("cpu"), "ulysses_degree": 1, "ring_degree": 1}
    init_group(**here)
    assert not tried
    init_group(**here, kernel="xfuser")
    assert tried


@pytest.mark.parametrize("broken", ["the import", "the version", "the start", "another process"])
def test_a_broken_xfuser_is_reported_and_never_ends_a_load(monkeypatch, caplog, broken):
    """An error of any kind, in this process or another one."""

    def fail(*arguments):
        raise AttributeError("undefined symbol: xyz\nand a trace")

    monkeypatch.setattr(group_module.importlib.metadata, "version", lambda name: "0.6.1" if broken == "the version" else "0.7.0")
    monkeypatch.setattr(group_module.importlib, "import_module", fail if broken == "the import" else lambda name: SimpleNamespace(USP=None))
    monkeypatch.setattr(group_module, "connect_xfuser", fail if broken == "the start" else lambda *arguments: lonely_group(1))
    monkeypatch.setattr(group_module, "on_all", lambda flag, device: flag and broken != "another process")
    assert group_module.try_xfuser(2, 2, 1, torch.device("cuda:0")) is None
    assert len(caplog.messages) == (0 if broken == "another process" else 1) and "trace" not in caplog.text


def test_a_working_xfuser_is_used_when_named(monkeypatch):
    monkeypatch.setattr(group_module, "import_xfuser", SimpleNamespace)
    monkeypatch.setattr(group_module, "connect_xfuser", lambda *arguments: lonely_group(1))
    monkeypatch.setattr(group_module, "on_all", lambda flag, device: flag)
    assert group_module.try_xfuser(1, 1, 1, torch.device("cuda:0")).size == 1


@pytest.mark.parametrize("kernel", ["cudnn", "efficient"])
def test_a_ring_gathers_its_keys_for_a_kernel_that_does_not_return_the_softmaxs_sum(monkeypatch, kernel):
    """The selected kernel sees the keys of both processes of the ring, whose slices differ in length."""
    seen = []
    monkeypatch.setattr(ring_module, "tokens_for_heads", lambda x, lengths, group: x.unbind(0))
    monkeypatch.setattr(ring_module, "heads_for_tokens", lambda x, lengths, own, group: x)
    monkeypatch.setattr(ring_module, "gather_parts", lambda x, dim, lengths, group: torch.cat([x, x[:, :, : lengths[1]]], dim))
    monkeypatch.setattr(ring_module, "attention", lambda q, k, v: seen.append(k.shape[1]) or q)
    group = replace(lonely_group(1), size=2, ring_degree=2)
    x = torch.zeros(1, 3, 2, 4)
    with kernel_as(kernel):
        ring_module.sequence_attention(x, x, x, [3, 2], group)
    assert seen == [5]


def test_parallelizing_leaves_the_state_dict_as_it_was():
    model = small_model()
    names = list(model.state_dict())
    model.sequence = SequenceParallel(lonely_group(ulysses_degree=1), model.config.num_heads)
    assert list(model.state_dict()) == names


def test_a_group_that_does_not_divide_the_heads_is_refused():
    with pytest.raises(ValueError, match="for 8 heads choose 1 x 3$|must divide the model's 8 heads; .* choose ulysses x ring = 1 x 3$"):
        SequenceParallel(lonely_group(ulysses_degree=3), small_model().config.num_heads)


def lonely_group(ulysses_degree: int) -> SequenceGroup:
    """A group's numbers without its process groups."""
    sizes = {"rank": 0, "size": ulysses_degree, "ulysses_degree": ulysses_degree, "ring_degree": 1}
    return SequenceGroup(**sizes, device=torch.device("cpu"), whole=None, ulysses=None, ring=None)


if __name__ == "__main__":
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
    leave(0)
