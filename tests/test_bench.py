"""What bench counts, against slow plain counts, and what it makes of it."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from crossings import cross_in_a_chunk, crossings
from torch.utils.flop_counter import FlopCounterMode

from livetalk_core.bench.counts import SIZE_14B, count_14b, count_parts
from livetalk_core.bench.measurement import measure_engine, part_rows, stage_rows
from livetalk_core.bench.page import read_reports, write_page
from livetalk_core.bench.parts import RandomInputs, list_parts
from livetalk_core.bench.random_engine import META, random_engine
from livetalk_core.bench.tables import part_cells
from livetalk_core.bench.timing import percentile
from livetalk_core.bench.work import Work, count_work
from livetalk_core.cli.bench import command_of
from livetalk_core.cli.main import main, parser
from livetalk_core.engine.denoiser import Cuts
from livetalk_core.presets import livetalk_14b, nano, tiny
from livetalk_core.train.net import VelocityNet, velocity
from livetalk_core.train.presets import dmd_14b


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


@pytest.fixture(scope="module")
def large():
    """TFLOPs of the 14B model by part."""
    counted = count_14b()
    flops = {row["name"]: row["flops"] for row in counted["parts"]}
    flops |= {name: counted[name]["flops"] for name in ("chunk", "motion_decode", "first_decode")}
    return {name: value / 1e12 for name, value in flops.items()}


@pytest.mark.parametrize(
    "part, low, high",
    [("DiT step", 350, 355), ("VAE decode", 77, 78), ("VAE encode", 6.0, 6.2), ("motion_decode", 9, 14), ("first_decode", 8, 10)],
)
def test_the_14b_models_work_does_not_grow(large, part, low, high):
    assert low <= large[part] <= high


def test_a_chunk_is_its_steps_and_what_is_done_once_in_it(large):
    once = sum(large[part] for part in ("audio keys", "VAE decode", "color", "VAE encode", "audio encoder"))
    assert large["chunk"] == pytest.approx(4 * large["DiT step"] + once)


def test_what_a_newcomer_adds_between_the_pieces_of_others_is_less_than_a_step(large):
    """Its picture's condition is an order of its own, and so is what a lone stream prepares: the motion latents, 2 of 9, decoded early.
    Its prompt and picture rows are made beside the streams, and its keys with its own first step."""
    assert 0 < large["condition encode"] < large["DiT step"] / 2
    assert 0 < large["VAE decode"] - large["VAE decode"] * 7 / 9 < large["DiT step"] / 10


def test_what_is_decoded_early_and_later_is_the_whole_decode():
    """Motion latents, the first new latent, and the rest: each is counted as a stream makes it, and no frame twice."""
    inputs = RandomInputs(engine := random_engine(livetalk_14b(), META, torch.bfloat16), engine.plan(*SIZE_14B), Cuts(), 4)
    whole, motion, first = (count_work(prepare()).flops for prepare in (inputs.decode, inputs.decode_motion, inputs.decode_first))
    rest = inputs.decoded(inputs.latents(inputs.plan.latent_frames, torch.float32))
    next(rest)
    assert motion + first + count_work(lambda: list(rest)).flops == whole
    assert motion + first <= whole / 3 and first <= whole / 7
    assert not random_engine(nano(), META, torch.float32).motion_apart


def test_a_training_pass_and_the_steps_of_both_stages_are_those_of_the_page():
    """Backward counts as two passes; with checkpointed activations the forward pass is made again."""
    engine = random_engine(livetalk_14b(), META, torch.bfloat16)
    inputs = RandomInputs(engine, engine.plan(*SIZE_14B), Cuts(), 4)
    with META:
        net = VelocityNet(livetalk_14b().dit).to(torch.bfloat16)
    given = (inputs.latents(9, torch.float32), 0.5, inputs.reference(), inputs.window())
    forward = count_work(lambda: velocity(net, *given)).flops / 1e12
    vae = sum(count_work(prepare()).flops for prepare in (inputs.decode, inputs.encode)) / 1e12
    learn, dmd = 4 * forward, dmd_14b().stage
    before, in_last = (dmd.chunks - 1) / 2, (dmd.steps + 1) / 2  # chunks before the last, and steps of the last, on average
    rolled = before * (dmd.steps * forward + vae) + (in_last - 1) * forward
    stage_2 = rolled + forward + learn + (rolled + learn + (1 + 3) * forward) / dmd.ratio
    assert [round(forward), round(learn, -1), round(stage_2, -1)] == [397, 1590, 7350]


def two_blocks_of_14b():
    """Inputs of the 14B model with two blocks; each block does the same."""
    preset = replace(livetalk_14b(), dit=replace(livetalk_14b().dit, num_layers=2))
    engine = random_engine(preset, META, torch.bfloat16)
    return RandomInputs(engine, engine.plan(*SIZE_14B), Cuts(), preset.steps)


def test_absorbed_audio_keys_save_three_quarters_of_the_audio_attention():
    inputs = two_blocks_of_14b()
    dit, steps = inputs.engine.models.dit, len(inputs.times)
    layer, tokens = dit.blocks[0].audio_cross_attn, inputs.random(1, inputs.plan.tokens, dit.config.dim)
    grid = dit.embed_condition(inputs.reference().cond_CTHW[None]).grid
    audio = dit.embed_audio(inputs.window().features_PTWSD[None].flatten(-2))[0]
    absorbed = layer.absorb(audio, 1)
    plain, short = (count_work(lambda keys=keys: layer(tokens, keys, grid, None)).flops for keys in (audio, absorbed))
    keys = count_work(lambda: layer.absorb(audio, 1)).flops
    assert 3.9 <= steps * plain / (steps * short + keys) <= 4.0


def test_a_later_step_is_the_network_alone():
    inputs = two_blocks_of_14b()
    denoiser, x_CTHW, motion = inputs.denoiser(), inputs.latents(inputs.plan.latent_frames, torch.float32), inputs.plan.motion_latents
    reference, window = inputs.reference(), inputs.window()
    denoiser(x_CTHW, inputs.times[0], reference, window, motion)
    (batch,) = denoiser.batches
    constant = (denoiser.condition, denoiser.embedded_time(inputs.times[1], x_CTHW.device), batch.context, batch.audio)
    network = count_work(lambda: inputs.engine.models.dit(x_CTHW[None], *constant, None, motion))
    x0 = count_work(lambda: x_CTHW - inputs.times[1] * x_CTHW)
    for t in inputs.times[1:]:
        step = count_work(lambda t=t: denoiser(x_CTHW, t, reference, window, motion))
        assert (step.flops, step.ops) == (network.flops, network.ops + x0.ops)


def test_a_product_is_counted_to_the_byte():
    layer, x = torch.nn.Linear(5, 7, device="meta"), meta(3, 5)
    work = count_work(lambda: layer(x), [layer])
    assert work == Work(flops=2 * 3 * 5 * 7, ops=1, weight_bytes=4 * (5 * 7 + 7), matrix_bytes=4 * (3 * 5 + 3 * 7))
    assert count_work(lambda: layer(x)).weight_bytes == 0, "control: weights are those of the modules named"


def test_views_and_empty_tensors_are_no_operations_and_expanded_axes_count_once():
    x = meta(4, 6)
    assert count_work(lambda: (x.t(), x[1:], x.view(24), x.unflatten(1, (2, 3)), torch.empty_like(x))) == Work()
    assert count_work(lambda: x + x[:1].expand(4, 6)) == Work(ops=1, elementwise_bytes=4 * (24 + 6 + 24))
    assert count_work(lambda: torch.ones(3) + 1) == Work(), "what the host does for itself is not the device's work"


def test_a_table_is_not_read_whole_and_what_is_written_over_is_not_read():
    table, places = meta(1000, 8), torch.empty(3, dtype=torch.long, device="meta")
    assert count_work(lambda: F.embedding(places, table)).elementwise_bytes == 2 * 4 * 3 * 8
    assert count_work(lambda: meta(5).copy_(meta(5))).elementwise_bytes == 2 * 4 * 5


def test_attention_is_one_operation_with_all_its_work_and_no_scores_in_memory():
    q, k = meta(1, 2, 50, 8), meta(1, 2, 70, 8)
    with FlopCounterMode(display=False) as plain:
        F.scaled_dot_product_attention(q, k, k)
    work = count_work(lambda: F.scaled_dot_product_attention(q, k, k))
    assert work == Work(flops=plain.get_total_flops(), ops=1, matrix_bytes=4 * 2 * 8 * (50 + 70 + 70 + 50))


@pytest.mark.parametrize("preset, size", [(tiny(), (64, 48)), (nano(), (64, 48)), (nano(), (256, 256))], ids=["tiny", "nano", "enlarged"])
def test_flops_of_every_part_are_those_of_torchs_own_counter(preset, size):
    engine = random_engine(preset, META, torch.float32)
    plan = engine.plan(*size)
    rows = {row["name"]: row for row in count_parts(preset, size, torch.float32, Cuts())}
    for part in list_parts(engine, plan, Cuts()):
        with torch.no_grad():
            call = part.prepare()
            with FlopCounterMode(display=False) as plain:
                call()
        assert rows[part.name]["flops"] == plain.get_total_flops(), part.name


def test_the_same_parts_run_on_a_real_device(engine):
    for part in list_parts(engine, engine.plan(48, 32), Cuts()):
        with torch.no_grad():
            part.prepare()()


def test_a_chunk_reads_no_value_and_copies_its_sound_and_its_frames_only():
    found = cross_in_a_chunk()
    assert found["read"] == []
    assert len(found["to_host"]) == 3 and {place.partition(":")[0] for place in found["to_host"]} == {"stream/host_copy.py"}
    assert len(found["to_device"]) == 1 and found["to_device"][0].startswith("engine/engine.py:")


@pytest.mark.parametrize(
    "kind, call",
    [
        ("read", lambda x: x.sum().item()),
        ("read", lambda x: bool(x.sum() > 0)),
        ("to_host", lambda x: x.cpu()),
        ("to_host", lambda x: x.to("cpu", torch.float64)),
        ("to_host", lambda x: torch.empty(3).copy_(x)),
        ("to_device", lambda x: torch.ones(3).to("meta")),
        ("to_device", lambda x: torch.tensor([1.0], device="meta")),
        ("to_device", lambda x: x.new_tensor([1.0, 2.0])),
        ("to_device", lambda x: x[torch.tensor([0, 1])]),
    ],
)
def test_a_crossing_is_seen_whatever_way_it_goes(kind, call):
    found = crossings(lambda: call(meta(3)))
    assert {name: len(places) for name, places in found.items()} == {"read": 0, "to_host": 0, "to_device": 0} | {kind: 1}


def test_work_that_stays_on_one_side_is_no_crossing():
    found = crossings(lambda: (meta(3) + 1, torch.ones(3).sum().item(), torch.tensor([1.0]), meta(3).double(), meta(3) * torch.tensor(2.0)))
    assert found == {"read": [], "to_host": [], "to_device": []}


ROWS = [
    {"name": "DiT step", "per": "step", "stage": "denoise", **vars(Work(flops=10**12, ops=5, weight_bytes=10**9, elementwise_bytes=10**9))},
    {"name": "audio keys", "per": "chunk", "stage": "denoise", **vars(Work(flops=10**12, ops=1))},
    {"name": "text encoder", "per": "identity", "stage": None, **vars(Work(flops=10**15, ops=1))},
]
RATES = {"matmul_tflops": 2.0, "copy_gb_s": 10.0, "dtype": "float32", "matmul_size": 1024, "copy_mb": 268.0}


def test_shares_are_work_over_time_over_the_rate():
    step, keys, _ = part_rows(ROWS, {"DiT step": 1.0}, RATES)
    assert (step["matmul_share"], step["copy_share"]) == (0.5, 0.2)
    assert keys["seconds"] is None and part_cells([step, keys], timed=True)[2][-3:] == ["not measured"] * 3


def test_a_stage_has_its_parts_as_often_as_a_chunk_has_them():
    (stage,) = stage_rows(ROWS, {"stage_s": {"denoise": 5.0}, "steps": 4}, RATES, devices=2)
    assert stage["flops"] == 5 * 10**12 and stage["ops"] == 21
    assert stage["matmul_share"] == 5 / 5 / (2 * 2)


def test_the_percentile_is_numpys():
    values = np.random.default_rng(0).random(13).tolist()
    assert percentile(values, 95) == pytest.approx(np.percentile(values, 95))
    assert percentile([3.0], 95) == 3.0


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The file of a run in one process with random weights."""
    path = tmp_path_factory.mktemp("bench") / "tiny.json"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
        patch.setattr("sys.stdout", file)
        patch.setattr("livetalk_core.bench.measurement.measure_engine", partial(measure_engine, seconds=0.02))
        assert main(["bench", "--model", "tiny", "--random-weights", "--size", "48x32", "--chunks", "2", "--json"]) == 0
    return path


def test_a_run_has_every_part_with_its_time_and_its_shares(measured):
    report = json.loads(measured.read_text())
    assert report["command"] == "livetalk bench --model tiny --size 48x32 --chunks 2 --random-weights"
    assert report["random_weights"] and report["rates"]["matmul_tflops"] > 0 and report["rates"]["copy_gb_s"] > 0
    assert len(report["parts"]) == 10
    for row in report["parts"]:
        assert row["seconds"] > 0 and row["ops"] > 0
        assert row["matmul_share"] == pytest.approx(row["flops"] / row["seconds"] / report["rates"]["matmul_tflops"] / 1e12)
    assert [row["name"] for row in report["stages"]] == list(report["stage_s"])
    assert report["counted"]["chunk"]["flops"] > report["counted"]["parts"][0]["flops"]


def test_the_page_names_device_and_command_and_says_what_was_not_measured(measured, tmp_path, capsys):
    page = tmp_path / "PERFORMANCE.md"
    assert main(["bench", "--page", str(page), str(measured)]) == 0
    text, report = page.read_text(), json.loads(measured.read_text())
    section = text.partition("### tiny, 48x32, one process")[2]
    assert f"Device: {report['device']}. Command: `{report['command']}`." in section
    assert "Command: `livetalk bench --counters`." in text
    for what in ("nano, one GPU", "14B, one GPU", "14B, a pool of GPUs"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {what} |")]
        assert set(line.split(" | ")[1:]) <= {"not measured", "not measured |"}
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count(" | ") for line in table.splitlines() if "---" not in line}) == 1 for table in tables)


def test_a_measured_row_takes_the_place_of_not_measured(measured):
    report = json.loads(measured.read_text())
    on_gpu = report | {"model": "large", "device": "a GPU", "device_type": "cuda", "dit_parameters": 2 * 10**10}
    text = write_page([report, on_gpu])
    assert "| large at 48x32, one process | a GPU, threads:" in text and "| 14B, one GPU |" not in text
    assert "| 14B, a pool of GPUs | not measured" in text


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not JSON"),
        ('{"model": "tiny"}', "is neither what livetalk bench --json prints nor"),
        ("[]", "is neither what livetalk bench --json prints nor"),
        ('{"command": "livetalk bench", "torch": "2", "counted": {"parts": []}}', "is from an older version.*: livetalk bench$"),
    ],
)
def test_a_file_of_something_else_is_refused_with_the_command(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_reports([path])


@pytest.mark.parametrize(
    "words, message",
    [
        (["results.json"], "results.json would not be used; name the page to write with --page PAGE"),
        (["--page", "page.md"], "--page needs result files"),
        (["--random-weights", "--model", "some/folder"], "--random-weights needs a preset, and 'some/folder' is none"),
        (["--accept", "out.json", "--compile"], "--accept measures every option itself; leave out --compile"),
        (["--accept", "out.json", "--json"], "leave out --json"),
        (["--parts", "nano"], "--parts nano are parts of --accept; add --accept OUT.json"),
        (["--random-weights", "--workers", "2"], "--random-weights works in one process"),
    ],
)
def test_words_that_do_not_fit_are_refused_in_one_line(capsys, words, message):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_random_weights_without_room_are_refused_before_they_are_made(capsys, monkeypatch):
    monkeypatch.setattr("livetalk_core.bench.random_engine.free_bytes", lambda device: 10**6)
    assert main(["bench", "--random-weights", "--model", "livetalk_14b", "--device", "cpu"]) == 2
    assert "GB are free; --counters counts without memory" in capsys.readouterr().err


def test_the_command_in_the_report_is_the_one_given_less_what_changes_no_number():
    options = parser().parse_args(["bench", "--model", "a folder", "--workers", "2", "--dit", "a.safetensors", "b.safetensors", "--json"])
    assert command_of(options) == "livetalk bench --model 'a folder' --workers 2 --dit a.safetensors b.safetensors"
    assert parser().parse_args(command_of(options).replace("'a folder'", "folder").split()[1:]).workers == 2


@pytest.mark.slow
def test_bench_prints_json_or_a_table_and_refuses_no_chunks(capsys):
    assert main(["bench", "--model", "tiny", "--size", "48x32", "--chunks", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "tiny" and report["size"] == "48x32" and report["random_weights"]
    assert main(["bench", "--counters"]) == 0
    assert "livetalk_14b at 720x416" in capsys.readouterr().out
    assert main(["bench", "--chunks", "0"]) == 2
    assert "chunks=0 must be 1 or more" in capsys.readouterr().err
