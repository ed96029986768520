"""Data: lists, cutting, shards, batches; what is broken is skipped, and what is stopped goes on."""

import json
import logging
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from made import speech_like, write_published_folder, write_small_folder, write_wav
from safetensors.torch import save_file
from toys import CPU, toy_plan, toy_sample, toy_tensors, write_toy_shards

from livetalk_core.cli.main import main
from livetalk_core.engine import frozen
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.options import EngineOptions
from livetalk_core.media.video import VideoWriter
from livetalk_core.models.vae import CausalVAE
from livetalk_core.presets import tiny
from livetalk_core.stream.window import slice_windows
from livetalk_core.train.buckets import BucketBatches
from livetalk_core.train.cut import clip_length, cut_clips, frames_at_25
from livetalk_core.train.manifest import Segment, find_segments
from livetalk_core.train.prepare import prepare, usable_clips
from livetalk_core.train.sample import Encoders, decode_tensors, encode_clip, shrink_mask
from livetalk_core.train.shards import NULL_KEY, ShardWriter, open_shards, read_index, read_null_text
from livetalk_core.train.synthetic import mouth_place, talker_clips


def write_video(path, frames: int, fps: int = 25, sound=None, size: int = 32):
    """Each frame a gray that tells its number: 2 a frame, modulo 240."""
    grays = (np.arange(frames) * 2 % 240).astype(np.uint8)
    pictures = np.broadcast_to(grays[:, None, None, None], (frames, size, size, 3))
    with VideoWriter(path, width=size, height=size, fps=fps, audio=sound, crf=1) as writer:
        writer.write(np.ascontiguousarray(pictures))
    return path


@pytest.fixture
def talk(tmp_path):
    """150 frames with sound."""
    sound = write_wav(tmp_path / "sound.wav", speech_like(6))
    return write_video(tmp_path / "talk.mp4", 150, sound=sound)


def segment_of(path, **changes) -> Segment:
    return Segment(key=path.stem, path=path, source="test", **changes)


def cut(path, chunks=2, **changes):
    return list(cut_clips(segment_of(path, **changes), chunks, lambda width, height: (32, 32), lambda width, height: toy_plan(32)))


def number_of(picture_HWC) -> int:
    return round(float(picture_HWC.float().mean()) / 2)


def test_a_clip_has_its_frames_in_order_and_a_reference_from_beside_it(talk):
    (clip,) = cut(talk)
    assert clip.frames_THWC.shape == (61, 32, 32, 3)
    start = int(clip.key.partition("@")[2])
    shown = [number_of(frame) for frame in clip.frames_THWC]
    expected = [(start + i) % 120 for i in range(61)]
    assert {(a - b) % 120 for a, b in zip(shown, expected, strict=True)} <= {119, 0, 1}, "the codec may be off by a gray"
    reference = number_of(clip.reference_HWC)
    beside = {n % 120 for n in (*range(start - 33, start), *range(start + 61, start + 61 + 33))}
    assert reference in beside and reference not in expected


def test_the_sound_of_a_clip_is_the_sound_under_its_frames(talk):
    (clip,) = cut(talk)
    start, truth = int(clip.key.partition("@")[2]), speech_like(6)
    own = clip.sound_N[clip.lead * 640 :][: 61 * 640].numpy()
    wanted = truth[start * 640 :][: len(own)]
    assert np.corrcoef(own, wanted)[0, 1] > 0.98
    shifted = truth[(start + 2) * 640 :][: len(own)]
    assert np.corrcoef(own[: len(shifted)], shifted)[0, 1] < 0.5, "the control: two frames off"


@pytest.mark.parametrize("fps", [24, 30, 50])
def test_any_frame_rate_becomes_25_by_the_frame_on_the_screen(tmp_path, fps):
    path = write_video(tmp_path / "rate.mp4", 2 * fps, fps=fps)
    times = [frame.time for frame in frames_at_25(segment_of(path))]
    assert len(times) == 50
    assert all(time - 1e-6 <= (k + 0.5) / 25 <= time + 1 / fps + 1e-6 for k, time in enumerate(times))


def test_a_segment_begins_and_ends_where_it_says(talk):
    times = [frame.time for frame in frames_at_25(segment_of(talk, start_s=1.0, end_s=3.0))]
    assert (times[0], times[-1], len(times)) == (pytest.approx(1.0), pytest.approx(2.96), 50)


def test_a_long_video_gives_several_clips_that_do_not_overlap(tmp_path):
    sound = write_wav(tmp_path / "s.wav", speech_like(12))
    clips = cut(write_video(tmp_path / "long.mp4", 300, sound=sound), chunks=1)
    starts = [int(clip.key.partition("@")[2]) for clip in clips]
    assert len(starts) >= 3 and all(b - a >= 33 for a, b in zip(starts, starts[1:], strict=False))
    assert len({clip.key for clip in clips}) == len(clips)


def test_as_many_whole_chunks_as_fit_are_taken():
    plan = toy_plan()
    assert [clip_length(n, 145, plan) for n in (32, 33, 60, 61, 88, 89, 500)] == [0, 33, 33, 61, 61, 89, 145]


def test_broken_silent_and_short_videos_are_logged_and_skipped(talk, tmp_path, caplog):
    quiet = write_wav(tmp_path / "quiet.wav", np.zeros(96000, np.float32))
    write_video(tmp_path / "quiet.mp4", 150, sound=quiet)
    write_video(tmp_path / "mute.mp4", 150)
    write_video(tmp_path / "short.mp4", 20, sound=tmp_path / "sound.wav")
    (tmp_path / "half.mp4").write_bytes(talk.read_bytes()[:4000])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        clips = list(usable_clips(find_segments(tmp_path), 2, lambda w, h: (32, 32), lambda w, h: toy_plan(32)))
    assert [clip.key.partition("@")[0] for clip in clips] == ["talk.mp4"]
    skipped = {record.message.split()[1].rstrip(":") for record in caplog.records if record.message.startswith("skipped")}
    assert skipped == {"quiet.mp4", "mute.mp4", "short.mp4", "half.mp4", "text.mp4", "empty.mp4"}


def test_a_talkvid_list_finds_cut_clips_and_segments_of_whole_videos(tmp_path, caplog):
    for name in ("videovideoid1-scene1", "abc123"):
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    rows = [
        {"id": "videovideoid1-scene1", "start-time": 1.0, "end-time": 5.0, "info": {}, "description": "a woman"},
        {"id": "other-scene2", "start-time": 2.0, "end-time": 9.5, "info": {"Video Link": "https://www.youtube.com/watch?v=abc123"}},
        {"id": "lost-scene3", "start-time": 0.0, "end-time": 3.0, "info": {}},
    ]
    path = tmp_path / "talkvid.json"
    path.write_text(json.dumps(rows))
    with caplog.at_level(logging.WARNING):
        first, second = find_segments(path)
    assert (first.path.stem, first.start_s, first.end_s, first.caption) == ("videovideoid1-scene1", 0.0, None, "a woman")
    assert (second.path.stem, second.start_s, second.end_s) == ("abc123", 2.0, 9.5)
    assert "lost-scene3" in caplog.text


def test_a_speakervid_list_of_names_finds_the_clips_in_the_folder_given(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "clip_0.mp4").write_bytes(b"x")
    (videos / "clip_0.txt").write_text("an old man\n")
    path = tmp_path / "SFT_set.json"
    path.write_text(json.dumps({"youtube": ["clip_0.mp4", "clip_1.mp4"]}))
    (found,) = find_segments(path, videos)
    assert (found.key, found.caption, found.source) == ("clip_0", "an old man", "speakervid")


@pytest.mark.parametrize("text, message", [("[{]", "not JSON"), ('[{"a": 1}]', "neither a TalkVid list"), ("3", "must hold a JSON list")])
def test_a_list_of_another_form_is_refused(tmp_path, text, message):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(find_segments(path))


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder of videos or JSON list"):
        list(find_segments(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def encoders(engine):
    models = engine.models
    return Encoders(
        vae=models.vae, audio=engine.encode_audio, text=engine.text_rows, image=engine.image_rows, plan=engine.plan, dit=engine.preset.dit
    )


def test_an_encoded_clip_is_what_serving_would_encode(engine, encoders):
    """Reference and first motion latents against the engine's, windows against an encoding of their frames alone."""
    (clip,) = talker_clips([3], 61, 64)
    plan = engine.plan(64, 64)
    sample = decode_tensors(clip.key, encode_clip(clip, encoders, CPU), plan)
    pixels_CHW = clip.reference_HWC.permute(2, 0, 1) / 127.5 - 1
    truth = engine.reference(pixels_CHW, clip.caption)
    for name in ("text_LD", "image_LD", "cond_CTHW", "first_CTHW", "pixels_CHW"):
        mine, theirs = vars(sample.reference)[name], vars(truth)[name]
        assert torch.allclose(mine, theirs, rtol=1e-2, atol=1e-2), name
    video = clip.frames_THWC.permute(3, 0, 1, 2) / 127.5 - 1
    assert sample.chunks == 2
    with torch.no_grad():
        second = engine.models.vae.encode(video[:, 28:61])
        motion = engine.models.vae.encode(video[:, 28:33])
    assert torch.allclose(sample.latents_KCTHW[1], second, rtol=1e-2, atol=1e-2)
    assert torch.allclose(second[:, :2], motion, atol=1e-4), "a window's first latents are its motion latents"
    features = engine.encode_audio(clip.sound_N)
    window = sample.window(1)
    assert torch.allclose(window.features_PTWSD, slice_windows(features[None], clip.lead + 28, plan), rtol=1e-2, atol=2e-2)
    assert torch.allclose(window.samples, clip.sound_N[(clip.lead + 33) * 640 :][: 28 * 640], atol=1e-4)


def test_a_small_models_clip_is_what_serving_would_encode_with_the_picture_in_every_latent_frame(tmp_path):
    engine = load_engine(write_small_folder(tmp_path / "small"), "cpu")
    plan, (clip,) = engine.plan(64, 64), talker_clips([3], 33, 64)
    pixels_CHW = clip.reference_HWC.permute(2, 0, 1) / 127.5 - 1
    truth = engine.reference(pixels_CHW, clip.caption)
    vae, heard, seen = engine.models.vae, engine.encode_audio, engine.image_rows
    for picture_in in ("every", "first"):
        config = replace(engine.preset.dit, picture_in=picture_in)
        encoders = Encoders(vae=vae, audio=heard, text=engine.text_rows, image=seen, plan=engine.plan, dit=config)
        sample = decode_tensors(clip.key, encode_clip(clip, encoders, CPU), plan)
        cond_CTHW = sample.reference.cond_CTHW
        same = torch.allclose(cond_CTHW[4:, 1:], cond_CTHW[4:, 1:2].expand(-1, 8, -1, -1), atol=1e-5)
        assert same and torch.allclose(cond_CTHW, truth.cond_CTHW, rtol=1e-2, atol=1e-2) == (picture_in == "every")
        for name in ("text_LD", "image_LD", "first_CTHW", "pixels_CHW"):
            assert torch.allclose(vars(sample.reference)[name], vars(truth)[name], rtol=1e-2, atol=1e-2), name
    still = pixels_CHW[:, None].expand(-1, 33, -1, -1)
    assert torch.allclose(truth.cond_CTHW[4:], vae.encode(still), atol=1e-5)


def test_stored_samples_come_back_as_they_were(tmp_path):
    shards = open_shards(write_toy_shards(tmp_path, 3), lambda width, height: toy_plan(32))
    wanted = toy_sample(1, 2)
    assert torch.equal(shards[1].latents_KCTHW, wanted.latents_KCTHW)
    assert torch.equal(shards[1].reference.cond_CTHW, wanted.reference.cond_CTHW)
    assert torch.equal(read_null_text(tmp_path), torch.zeros(2, 32)) and len(shards) == 3


def test_a_shard_is_a_tar_of_safetensors(tmp_path):
    write_toy_shards(tmp_path, 2)
    with tarfile.open(tmp_path / "000-00000.tar") as tar:
        assert [member.name for member in tar] == [f"{i:08d}.safetensors" for i in range(3)]


def test_shards_are_closed_at_their_size_and_a_second_writer_goes_on(tmp_path):
    for seeds in (range(0, 3), range(2, 5)):
        with ShardWriter(tmp_path, max_bytes=1) as writer:
            for i in seeds:
                if f"toy-{i}" not in writer.known:
                    writer.add(f"toy-{i}", toy_tensors(i), width=32, height=32, chunks=1, source="toy")
    assert len(list(tmp_path.glob("*.tar"))) == 5
    assert [entry.key for entry in read_index(tmp_path)] == [f"toy-{i}" for i in range(5)]


def test_what_was_not_finished_is_not_in_the_index(tmp_path):
    writer = ShardWriter(tmp_path)
    writer.add("toy-0", toy_tensors(0), width=32, height=32, chunks=1, source="toy")
    assert read_index(tmp_path) == [] and not list(tmp_path.glob("0*.tar"))
    with ShardWriter(tmp_path) as again:
        again.add("toy-1", toy_tensors(1), width=32, height=32, chunks=1, source="toy")
    assert [entry.key for entry in read_index(tmp_path)] == ["toy-1"]


def test_preparing_twice_adds_nothing_the_second_time(tmp_path, encoders):
    clips = list(talker_clips([0, 1], 33, 64))
    added = [prepare(clips[:n], encoders, tmp_path, CPU, source="talker") for n in (1, 2, 2)]
    assert added == [1, 1, 0]
    assert [entry.key for entry in read_index(tmp_path)] == [NULL_KEY, "talker-train-0", "talker-train-1"]


def test_a_preset_still_to_be_trained_encodes_with_the_vae_named(tmp_path):
    torch.manual_seed(7)
    vae = CausalVAE(tiny().vae)
    save_file(vae.state_dict(), tmp_path / "vae.safetensors")
    where = ["talker", str(tmp_path / "shards"), "--count", "1", "--chunks", "1", "--bucket", "64", "--device", "cpu", "--bend"]
    assert main(["prepare", *where, "--vae", str(tmp_path / "vae.safetensors")]) == 0
    sample = open_shards(tmp_path / "shards", lambda width, height: toy_plan(64))[0]
    (clip,) = talker_clips([0], 33, 64)
    with torch.no_grad():
        latents = vae.encode(clip.frames_THWC.permute(3, 0, 1, 2) / 127.5 - 1)
    assert torch.allclose(sample.latents_KCTHW[0], latents, rtol=1e-2, atol=1e-2)
    assert sample.bent_KCTHW.shape == sample.latents_KCTHW[:, :, :2].shape


def test_a_folder_without_videos_is_refused(tmp_path, capsys):
    assert main(["prepare", str(tmp_path), str(tmp_path / "shards"), "--model", "tiny", "--device", "cpu"]) == 2
    assert "there is no video in it" in capsys.readouterr().err


def test_videos_that_all_cannot_be_used_are_an_error(tmp_path, capsys):
    write_video(tmp_path / "mute.mp4", 60)
    where = [str(tmp_path), str(tmp_path / "shards"), "--model", "tiny", "--device", "cpu", "--bucket", "64"]
    for _ in range(2):
        assert main(["prepare", *where]) == 2, "again too"
        assert "no clip could be made of any video" in capsys.readouterr().err


def test_a_second_run_reads_no_video_and_draws_no_talker_whose_clips_are_there(tmp_path, capsys, monkeypatch):
    write_video(tmp_path / "videos.mp4", 80, sound=write_wav(tmp_path / "s.wav", speech_like(3.2)), size=64)
    common = ["--model", "tiny", "--device", "cpu", "--bucket", "64", "--chunks", "1"]
    commands = [
        ["prepare", str(tmp_path), str(tmp_path / "a"), *common],
        ["prepare", "talker", str(tmp_path / "b"), "--count", "1", *common],
    ]
    for command in commands:
        assert main(command) == 0
        assert "1 clips added" in (told := capsys.readouterr().err) and "clips/s" in told
    monkeypatch.setattr("livetalk_core.train.prepare.cut_clips", None)
    monkeypatch.setattr("livetalk_core.train.synthetic.make_clip", None)
    for command in commands:
        assert main(command) == 0
        assert "0 clips added" in capsys.readouterr().err


def test_prepare_loads_each_encoder_once_and_no_dit(tmp_path, monkeypatch):
    """The same rows as the whole engine gives."""
    write_published_folder(tmp_path / "model")
    calls = Counter()
    for name in ("load_text", "load_image", "load_audio"):
        real = getattr(frozen, name)
        monkeypatch.setattr(frozen, name, lambda *given, name=name, real=real: calls.update([name]) or real(*given))
    engine = load_engine(tmp_path / "model", "cpu")
    for path in (tmp_path / "model").glob("diffusion_pytorch_model*"):
        path.unlink()
    networks = frozen.load_frozen(EngineOptions(model=str(tmp_path / "model"), device="cpu"))
    (clip,) = talker_clips([3], 33, 64)
    pixels_CHW = clip.reference_HWC.permute(2, 0, 1) / 127.5 - 1
    for prompt in ("a", "b"):
        assert torch.equal(networks.text(prompt), engine.text_rows(prompt))
        assert torch.equal(networks.image(pixels_CHW), engine.image_rows(pixels_CHW))
    assert torch.equal(networks.audio(clip.sound_N), engine.encode_audio(clip.sound_N))
    assert calls == {"load_text": 1, "load_image": 1, "load_audio": 1}


def batches(count: int, **how) -> list[list[int]]:
    order = iter(BucketBatches(["a"] * 10 + ["b"] * 7 + ["c"], **({"batch": 2, "rank": 0, "world": 1, "seed": 0} | how)))
    return [next(order) for _ in range(count)]


def test_every_batch_is_of_one_bucket_and_an_epoch_has_each_sample_at_most_once():
    per_epoch = 5 + 3 + 1
    kinds = ["a"] * 10 + ["b"] * 7 + ["c"]
    epoch = batches(per_epoch)
    assert all(len({kinds[i] for i in row}) == 1 for row in epoch)
    counts = Counter(i for row in epoch for i in row)
    assert all(counts[i] == 1 for i in range(10)) and sum(counts[i] for i in range(10, 17)) == 6 and counts[17] == 2
    assert batches(2 * per_epoch)[per_epoch:] != epoch


def test_the_order_is_the_same_for_the_same_seed_and_from_any_start():
    assert batches(30) == batches(30) != batches(30, seed=1)
    assert batches(30)[13:] == batches(17, start=13)


def test_ranks_share_what_one_process_would_take():
    """Two of batch 1 against one of batch 2."""
    shares = [batches(20, batch=1, world=2, rank=rank) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == batches(20)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="there are no samples"):
        BucketBatches([], batch=1, rank=0, world=1, seed=0)


def test_the_talker_is_the_same_for_the_same_number_and_its_reference_is_another_moment():
    (first,), (again,), (other,) = (list(talker_clips([seed], 33, 32)) for seed in (5, 5, 6))
    assert torch.equal(first.frames_THWC, again.frames_THWC) and torch.equal(first.sound_N, again.sound_N)
    assert not torch.equal(first.frames_THWC, other.frames_THWC)
    assert not any(torch.equal(frame, first.reference_HWC) for frame in first.frames_THWC)


def test_the_mouth_is_where_the_pictures_change_with_the_mouth():
    """Between two drawings that differ in the mouth alone; the jaw, which moves with it, lies outside."""
    from livetalk_core.talker.face import draw
    from livetalk_core.talker.identity import Identity, Mouth, Pose
    from livetalk_core.train.synthetic import mouth_mask

    pose = Pose(x=0.04, y=-0.03, roll=0.1, yaw=0.5, pitch=-0.4, scale=1.05)
    for seed in range(6):
        identity = Identity.sample(seed, "human")
        shut, wide = (draw(identity, pose, mouth, 128).astype(int) for mouth in (Mouth(), Mouth(opening=0.5, width=0.4, teeth=0.8)))
        changed = torch.from_numpy(np.abs(shut - wide).sum(-1)).float()
        mask = mouth_mask(identity, [pose], 128)
        assert changed[mask].mean() > 10 * changed[~mask].mean()
        elsewhere = mouth_mask(identity, [replace(pose, x=-0.12, y=0.1)], 128)
        assert not changed[elsewhere].mean() > 10 * changed[~elsewhere].mean(), "the control: another pose's mouth"
        x, y = mouth_place(identity, pose, 128)
        assert mask[round(y), round(x)] and mask.float().mean() < 0.25


def test_a_mask_of_pixels_becomes_one_of_latents():
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8, 31] = True
    assert shrink_mask(mask, toy_plan(32)).nonzero().tolist() == [[1, 3]]
    assert not shrink_mask(None, toy_plan(32)).any()
