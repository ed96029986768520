"""Whole runs: resume, signals, two processes, what comes out at the end."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import made
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor
from toys import (
    CPU,
    SMALL_DIT,
    sharded_net,
    toy_dmd,
    toy_job,
    toy_preset,
    toy_run,
    toy_sample,
    toy_sft,
    toy_state,
    toy_vae_state,
    write_toy_shards,
)
from two_processes import main as run_both
from two_processes import turn

from livetalk_core.cli.main import main
from livetalk_core.cli.train import change
from livetalk_core.engine.load import load_engine
from livetalk_core.parallel.train import shard, training_world
from livetalk_core.presets import tiny
from livetalk_core.train import presets, trainer
from livetalk_core.train.checkpoint import CheckpointWriter, find_checkpoints, load_checkpoint, save_checkpoint
from livetalk_core.train.config import DMD, Optim, Run
from livetalk_core.train.draws import Draws
from livetalk_core.train.export import export_net
from livetalk_core.train.learner import Learner
from livetalk_core.train.net import VelocityNet, blocks_of, net_state
from livetalk_core.train.run import train
from livetalk_core.train.sft import sft_loss
from livetalk_core.train.shards import open_shards

STAGES = {
    "sft": toy_sft(noise_motion=0.5, mouth_weight=1.0),
    "sft with Muon": toy_sft(optim=Optim(lr=1e-3, muon=1.0)),
    "dmd": toy_dmd(chunks=2, ratio=2, text_guidance=3.0, audio_guidance=2.0),
}


def stop_at(step: int, monkeypatch) -> None:
    """A SIGTERM from outside in the middle of that step."""
    show = trainer.Report.show

    def with_signal(report, number, results, device):
        show(report, number, results, device)
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.Report, "show", with_signal)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_told_to_stop_goes_on_bit_by_bit_as_if_it_had_not(tmp_path, stage, monkeypatch):
    recipe = toy_run(STAGES[stage], steps=4, accumulate=2, ema_decay=0.5, ema_start=1)
    straight = load_file(train(toy_job(tmp_path, recipe, "straight")))
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert train(toy_job(tmp_path, recipe, "stopped")) is None
    assert [path.name for path in find_checkpoints(tmp_path / "stopped/checkpoints")] == ["step-00000002"]
    resumed = load_file(train(toy_job(tmp_path, recipe, "stopped")))
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert not all(torch.equal(straight[name], toy_state()[name]) for name in straight), "nothing was learned"


def test_another_seed_is_another_run(tmp_path):
    ends = [load_file(train(toy_job(tmp_path, toy_run(toy_sft(), steps=2, seed=seed), f"seed-{seed}"))) for seed in (0, 1)]
    assert not torch.equal(ends[0]["blocks.0.ffn.0.weight"], ends[1]["blocks.0.ffn.0.weight"])


def test_the_signal_handler_of_before_is_back_after_a_run(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(toy_job(tmp_path, toy_run(toy_sft(), steps=1)))
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_processes_learn_what_one_does(tmp_path):
    """Batch 1 on two gloo processes against batch 2 on one, both stages, weights and all."""
    toy_job(tmp_path, toy_run(toy_sft(), steps=1))
    process = start_two(tmp_path)
    try:
        _, errors = process.communicate(timeout=made.HANG_S)
    finally:
        process.terminate()
    assert process.returncode == 0, errors[-3000:]
    for stage in ("sft", "dmd"):
        run_both(stage, str(tmp_path), 2)
        two, one = (load_file(tmp_path / f"{stage}-{batch}/diffusion_pytorch_model.safetensors") for batch in (1, 2))
        assert furthest(two, one) < 0.01
        assert furthest(toy_state(), one) == 1, "the control"
    ends = [load_file(train(toy_job(tmp_path, toy_run(toy_sft(), steps=5, batch=2), f"sft-{batch}"))) for batch in (1, 2)]
    assert furthest(*ends) < 0.01, "one goes on from two"
    with training_world(CPU):
        turn(str(tmp_path), 1)
    for name, before in (("matrices", toy_state()), ("kernels", toy_vae_state())):
        two, one = (load_file(tmp_path / f"{name}-{count}.safetensors") for count in (2, 1))
        assert furthest(two, one, before) < 0.05, "Muon turns whole matrices, in bfloat16"


@pytest.mark.slow
def test_two_processes_and_their_loaders_save_and_stop_at_a_signal(tmp_path):
    """torchrun passes it on to all of them, in the middle of a step."""
    toy_job(tmp_path, toy_run(toy_sft(), steps=1))
    process = start_two(tmp_path, "endless")
    try:
        for line in process.stderr:
            if line.startswith("step 3/"):
                break
        process.terminate()
        _, errors = process.communicate(timeout=made.HANG_S)
    finally:
        process.terminate()
    (saved,) = find_checkpoints(tmp_path / "run/checkpoints")
    step = int(saved.name.removeprefix("step-"))
    assert step >= 3 and "DataLoader worker" not in errors
    assert train(toy_job(tmp_path, toy_run(toy_sft(), steps=step + 1))) is not None


def test_processes_agree_on_the_checkpoint_and_refuse_a_folder_that_they_do_not_share(tmp_path):
    (tmp_path / "checkpoints/step-00000003").mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000003/.metadata").touch()
    process = start_two(tmp_path, "disagree")
    try:
        _, errors = process.communicate(timeout=150)
    finally:
        process.terminate()
    assert process.returncode == 0, errors[-3000:]
    for rank in (0, 1):
        told, newest = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert "is not the folder of the first process; give a folder on a disk that all share" in told
        assert newest == "step-00000003", "rank 1 sees no checkpoint itself"
    assert not list(tmp_path.glob("disk-*/.shared*"))


def start_two(folder: Path, *how: str) -> subprocess.Popen:
    """Two gloo processes under torchrun."""
    here = Path(__file__).parent
    script = [str(here / "two_processes.py"), str(folder), *how]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *script]
    environment = os.environ | {"PYTHONPATH": f"{here.parent}{os.pathsep}{here}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor], before: dict[str, Tensor] | None = None) -> float:
    """The largest difference of any weight as a share of how far its tensor moved in training.

    Biases of keys are left out: a softmax does not see them, and Adam makes steps of the noise in their gradient.
    """
    start, unseen = before or toy_state(), ("k.bias", "k_img.bias", "kv_linear.bias")
    seen = [name for name in theirs if not name.endswith(unseen)]
    moved = {name: float((theirs[name] - start[name]).abs().max()) for name in seen}
    return max(float((ours[name] - theirs[name]).abs().max()) / moved[name] for name in seen)


def test_every_pass_of_an_update_leaves_gradients_reduced():
    """So that accumulating does not keep the whole network's gradients on each process."""
    reduced = []
    with training_world(CPU):
        learner = Learner(sharded_net(), Optim(lr=1e-3))

        def loss() -> Tensor:
            reduced.append({p.grad is not None for p in learner.net.parameters()})
            return sft_loss(learner.net, [(toy_sample(0), Draws.of(0, len(reduced)))], toy_sft(), torch.zeros(2, 32))

        learner.update([loss, loss])
    assert reduced == [{False}, {True}]


def test_a_checkpoint_holds_the_state_of_its_start_while_training_goes_on(tmp_path, monkeypatch):
    go, write = threading.Event(), dcp.FileSystemWriter.write_data
    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", lambda *given: go.wait() and write(*given))
    with training_world(CPU):
        learner = Learner(sharded_net(0), Optim(lr=1e-1), ema_decay=0.5)
        writer, before = CheckpointWriter(tmp_path, keep=2), full_weights(learner)
        writer.start(1, {"net": learner})
        learner.update([lambda: sum(p.full_tensor().square().sum() for p in learner.net.parameters())])
        assert not writer.is_written() and not find_checkpoints(tmp_path), "it is not written yet"
        go.set()
        writer.finish()
        after = full_weights(learner)
        assert load_checkpoint(tmp_path / "step-00000001", {"net": learner}) == 1
        assert all(torch.equal(full_weights(learner)[name], before[name]) for name in before)
        assert not all(torch.equal(after[name], before[name]) for name in before), "the control"


def test_a_disk_that_is_full_ends_the_run_in_one_line_and_keeps_the_older_checkpoints(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    with training_world(CPU):
        learner = Learner(sharded_net(), Optim(lr=1e-3))
        save_checkpoint(tmp_path, 1, {"net": learner}, keep=1)
        monkeypatch.setattr(dcp.FileSystemWriter, "write_data", full)
        with pytest.raises(
            ValueError, match="step-00000002 could not be written .*No space left on device.*make room or set keep lower"
        ) as caught:
            save_checkpoint(tmp_path, 2, {"net": learner}, keep=1)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    (tmp_path / ".step-00000009.part").mkdir()
    (tmp_path / ".step-00000009.part" / "__0_0.distcp").write_bytes(b"half")
    with training_world(CPU):
        CheckpointWriter(tmp_path, keep=2)
    assert not list(tmp_path.iterdir())


def full_weights(learner: Learner) -> dict[str, Tensor]:
    return {name: p.full_tensor().detach().clone() for name, p in learner.net.named_parameters()}


@pytest.mark.parametrize("make", presets.RECIPES.values(), ids=presets.RECIPES)
def test_the_average_of_every_recipe_starts_before_its_last_update(make):
    """Stage 2 updates the network that is averaged at every `ratio`-th step only."""
    recipe = make()
    updates = -(-recipe.run.steps // (recipe.stage.ratio if isinstance(recipe.stage, DMD) else 1))
    assert recipe.run.ema_start < updates


def test_a_checkpoint_of_one_process_can_be_taken_up_with_its_optimizer_and_average(tmp_path):
    with training_world(CPU):
        kept = Learner(sharded_net(0), Optim(lr=1e-3), ema_decay=0.9)
        kept.update([lambda: sum(p.full_tensor().square().sum() for p in kept.net.parameters())])
        save_checkpoint(tmp_path, 7, {"net": kept}, keep=2)
        taken = Learner(sharded_net(1), Optim(lr=1e-3), ema_decay=0.9)
        assert load_checkpoint(tmp_path / "step-00000007", {"net": taken}) == 7
        for a, b in zip(kept.net.parameters(), taken.net.parameters(), strict=True):
            assert torch.equal(a.full_tensor(), b.full_tensor())
            for name in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(kept.optimizers[0].state[a][name].full_tensor(), taken.optimizers[0].state[b][name].full_tensor())
        assert all(torch.equal(kept.ema.shadow[n].full_tensor(), taken.ema.shadow[n].full_tensor()) for n in kept.ema.shadow)
        assert taken.updates == 1


def test_only_the_newest_checkpoints_are_kept_and_a_half_written_one_is_not_taken(tmp_path):
    with training_world(CPU):
        learner = Learner(sharded_net(0), Optim(lr=1e-3))
        for step in (1, 2, 3):
            save_checkpoint(tmp_path, step, {"net": learner}, keep=2)
    (tmp_path / "step-00000009").mkdir()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]


def test_a_loss_that_is_no_number_stops_the_run_with_one_line(tmp_path):
    recipe = toy_run(toy_sft(optim=Optim(lr=float("inf"))), steps=5)
    with pytest.raises(ValueError, match="is nan at step 2; resume from an older checkpoint"):
        train(toy_job(tmp_path, recipe))


def test_the_run_reports_on_a_line_and_in_tensorboard(tmp_path, capsys):
    train(toy_job(tmp_path, toy_run(toy_sft(), steps=2)))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("step 2/2  loss ") and line.endswith("left")
    assert all(word in line for word in ("grad_norm", "samples_per_s", "memory_gb"))
    assert list((tmp_path / "run/board").glob("events.*"))


def test_validation_makes_a_video_with_sound(tmp_path):
    from livetalk_core.media.video import probe_video

    train(toy_job(tmp_path, toy_run(toy_dmd(chunks=1), steps=1, validate_every=1, validate_chunks=2)))
    info = probe_video(tmp_path / "run/validation/step-00000001.mp4")
    assert (info.frames, info.width, info.height) == (56, 32, 32) and info.audio_rate == 16000


def test_what_is_missing_is_said_in_one_line(tmp_path):
    job = toy_job(tmp_path, toy_run(toy_dmd(chunks=9), steps=1))
    with pytest.raises(ValueError, match="longest sample has 2 chunks, but 9 are needed; prepare with --chunks 9"):
        train(job)
    with pytest.raises(ValueError, match="needs the VAE"):
        train(replace(job, recipe=toy_run(toy_sft(), steps=1), vae=None))
    with pytest.raises(ValueError, match="distills a Stage 1 model"):
        train(replace(job, recipe=toy_run(toy_dmd(), steps=1), dit=()))
    with pytest.raises(FileNotFoundError, match="has no samples"):
        open_shards(tmp_path / "nowhere", None)


def test_the_presets_hold_the_numbers_of_the_report():
    sft, dmd = presets.sft_14b(), presets.dmd_14b()
    assert (sft.run.steps, sft.run.batch, dmd.run.steps, dmd.run.batch) == (1000, 1, 200, 1)
    assert (dmd.stage.generator.lr, dmd.stage.critic.lr, dmd.stage.ratio, dmd.stage.steps) == (2e-6, 4e-7, 5, 4)
    assert (dmd.stage.chunks, dmd.stage.strategy, dmd.stage.motion_source, dmd.stage.noise_motion) == (5, "random", "predicted", True)
    assert [make().name for make in presets.RECIPES.values()] == list(presets.RECIPES)


def test_a_count_of_zero_is_refused():
    with pytest.raises(ValueError, match="batch=0 must be 1 or more"):
        Run(steps=1, batch=0)


def test_the_whole_way_from_drawn_people_to_a_talking_video(tmp_path, published, portrait, speech, monkeypatch):
    """prepare, train, export and generate, by the command line, with a toy model in the published form."""
    vae = str(published / "Wan2.1_VAE.pth")
    prepared = ["prepare", "talker", str(tmp_path / "shards"), "--model", str(published), "--bucket", "64", "--count", "2", "--chunks", "1"]
    assert main(prepared) == 0
    model = replace(tiny(), dit=made.DIT)
    recipe = replace(toy_run(toy_sft(optim=Optim(lr=1e-3)), steps=9), model=model)
    monkeypatch.setitem(presets.RECIPES, "toy", lambda: recipe)
    dit = [str(path) for path in sorted(published.glob("*.safetensors"))]
    arguments = ["train", "toy", str(tmp_path / "run"), "--data", str(tmp_path / "shards"), "--vae", vae, "--device", "cpu"]
    assert main([*arguments, "--dit", *dit, "--set", "steps=1"]) == 0
    exported = tmp_path / "run/diffusion_pytorch_model.safetensors"
    assert json.loads((tmp_path / "run/config.json").read_text()) == {
        "num_heads": made.DIT.num_heads, "text_len": made.DIT.text_len,
    }  # fmt: skip
    engine = load_engine(published)
    assert load_file(exported).keys() == engine.models.dit.state_dict().keys()
    film = str(tmp_path / "film.mp4")
    size = ["--size", "64x64", "--device", "cpu", "--any-size"]
    assert main(["generate", str(portrait), str(speech), film, "--model", str(published), "--dit", str(exported), *size]) == 0


def test_an_exported_network_is_the_one_in_training(tmp_path):
    with training_world(CPU):
        export_net(sharded_net(3), "dit.", tmp_path / "dit.safetensors", torch.float32, toy_preset())
    assert all(torch.equal(tensor, toy_state(3)[name]) for name, tensor in load_file(tmp_path / "dit.safetensors").items())


def test_a_recipe_that_does_not_exist_is_refused_with_those_that_do(tmp_path, capsys):
    assert main(["train", "sft_99b", str(tmp_path)]) == 2
    assert "recipe 'sft_99b' must be nano, or one of sft_14b, dmd_14b" in capsys.readouterr().err


def test_shards_of_another_model_size_are_planned_by_that_model(tmp_path):
    shards = open_shards(write_toy_shards(tmp_path), lambda width, height: (width, height))
    assert shards.plans == {(32, 32): (32, 32)}


def test_a_recipe_can_be_changed_on_the_command_line():
    settings = ["steps=50", "chunks=3", "strategy=fixed", "generator.lr=1", "noise_motion=false", "critic.betas=[0, 0.9]"]
    recipe = change(presets.dmd_14b(), settings)
    assert (recipe.run.steps, recipe.stage.chunks, recipe.stage.strategy, recipe.stage.noise_motion) == (50, 3, "fixed", False)
    assert recipe.stage.generator.lr == 1.0 and recipe.stage.critic.betas == (0, 0.9)
    for wrong, message in (
        ("speed=3", "there is no such setting"),
        ("chunks=many", "must be of type int"),
        ("generator=3", "there is no such setting"),
        ("steps", "give NAME=VALUE"),
        ("strategy=sometimes", "strategy='sometimes' must be"),
    ):
        with pytest.raises(ValueError, match=message):
            change(presets.dmd_14b(), [wrong])


def test_files_in_half_precision_start_float32_weights():
    state = {name: tensor.bfloat16() for name, tensor in toy_state().items()}
    with training_world(CPU):
        net = shard(lambda: VelocityNet(SMALL_DIT), net_state(state), blocks_of, CPU)
        frozen = shard(lambda: VelocityNet(SMALL_DIT), net_state(toy_state()), blocks_of, CPU, master=torch.bfloat16)
    for name, tensor in state.items():
        kept, rounded = (dict(module.named_parameters())[f"dit.{name}"].to_local() for module in (net, frozen))
        assert kept.dtype == torch.float32 and torch.equal(kept, tensor.float())
        assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, tensor)
