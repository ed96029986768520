"""Nodes run on the shipped model: the same frames as the core's, made once and when asked, stopped at once, nothing left behind."""

import gc
import re
import shutil
from types import SimpleNamespace

import av
import pytest
import torch
from made import speech_like
from standin import Interrupted

from livetalk_core.engine.load import load_engine
from livetalk_core.generate import talk
from livetalk_core.media.video import probe_video
from livetalk_core.types import StreamSettings

SETTINGS = {"seed": 3, "steps": 1, "shift": 5.0, "color_strength": 1.0}
SIZE = {"prompt": "a face", "size": "custom", "width": 32, "height": 32, "any_size": True}


def audio(seconds: float = 1.5, rate: int = 16000, channels: int = 1) -> dict:
    samples = torch.from_numpy(speech_like(seconds, rate)).float()
    return {"waveform": samples.expand(1, channels, -1), "sample_rate": rate}


@pytest.fixture
def image():
    return torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(0))


def stream_of(nodes, image, sound: dict | None = None, size: dict = SIZE):
    """(stream, latent) of the sampler."""
    spec = nodes.LoadModel.execute("nano", "auto", "auto", 1, False).args[0]
    speech = nodes.AudioEmbedding.execute(sound or audio(), True).args[0]
    (reference,) = nodes.ReferenceConditioning.execute(spec, image, **size).args[0]
    return nodes.StreamingBidirectionalSampler.execute(spec, reference, speech, **SETTINGS).args


def count_decodes(nodes) -> list[int]:
    """Grows by one for every chunk that the engine decodes."""
    (slot,) = nodes.load.engines.SLOTS.values()
    calls, decode = [], slot.engine.models.vae.decode
    slot.engine.models.vae.decode = lambda *args: (calls.append(1), decode(*args))[1]
    return calls


def test_a_stream_gives_the_frames_that_the_core_gives(nodes, image):
    stream, _ = stream_of(nodes, image)
    engine = load_engine("nano", "cpu")
    opened = engine.open(engine.reference(stream.reference.pixels_CHW, "a face"), StreamSettings(**SETTINGS))
    want = torch.cat([chunk.frames_THWC for chunk in talk(opened, iter([audio()["waveform"][0]]), 38)])
    images = nodes.ParallelVAEDecode.execute("images", stream=stream).args[0]
    assert images.shape == (38, 32, 32, 3) and images.dtype == torch.float32
    assert torch.equal((images * 255).round().to(torch.uint8), want)


def test_the_default_shift_is_the_one_that_the_shipped_model_was_trained_with(nodes, image):
    stream, _ = stream_of(nodes, image)
    own = load_engine("nano", "cpu").preset.shift
    frames = {}
    for shift in (nodes.sample.OWN_SHIFT, own, own + 2):
        settings = SETTINGS | {"steps": 2, "shift": shift}
        made = nodes.sample.make_stream(stream.spec, stream.reference, stream.speech, **settings)
        frames[shift] = next(made.chunks()).frames_THWC
    assert torch.equal(frames[0], frames[own]) and not torch.equal(frames[0], frames[own + 2])


def test_nothing_is_made_before_somebody_asks(nodes, image):
    stream, latent = stream_of(nodes, image)
    calls = count_decodes(nodes)
    chunks = stream.chunks()
    assert calls == []
    next(chunks)
    assert len(calls) == 1 and stream.spool is None
    assert dict.__len__(latent) == 0


def test_a_stream_that_is_read_again_is_not_computed_again(nodes, image):
    stream, latent = stream_of(nodes, image)
    calls = count_decodes(nodes)
    frames = torch.cat([chunk.frames_THWC for chunk in stream.chunks()])
    again = torch.cat([chunk.frames_THWC for chunk in stream.chunks()])
    assert torch.equal(frames, again)
    assert latent["samples"].shape == (1, 64, 1 + 10, 4, 4)
    assert len(calls) == 2, "two chunks"


def test_what_was_kept_is_made_again_where_the_temporary_folder_was_emptied(nodes, image, host):
    stream, latent = stream_of(nodes, image)
    calls = count_decodes(nodes)

    def empty() -> None:
        shutil.rmtree(host.folder / "temp")

    video = nodes.ParallelVAEDecode.execute("video", stream=stream).args[1]
    empty()
    again = nodes.ParallelVAEDecode.execute("video", stream=stream).args[1]
    assert not video.path.exists() and again.path.exists() and len(calls) == 4
    empty()
    assert len(nodes.ParallelVAEDecode.execute("images", stream=stream).args[0]) == 38 and len(calls) == 6
    empty()
    assert latent["samples"].shape[2] == 11 and len(calls) == 8


def test_frames_that_are_too_many_for_the_disk_are_not_kept_and_made_again(nodes, image, host, monkeypatch):
    stream, latent = stream_of(nodes, image)
    monkeypatch.setattr(nodes.host, "spool_limit", lambda: 100_000)
    calls = count_decodes(nodes)
    first, second = (torch.cat([chunk.frames_THWC for chunk in stream.chunks()]) for _ in range(2))
    assert len(calls) == 4 and torch.equal(first, second) and not list(host.folder.glob("temp/*"))
    assert latent["samples"].shape == (1, 64, 1 + 10, 4, 4)


def test_a_video_and_then_its_images_and_latents_take_one_run(nodes, image):
    stream, latent = stream_of(nodes, image)
    calls = count_decodes(nodes)
    first, second = (nodes.ParallelVAEDecode.execute("video", stream=stream).args[1] for _ in range(2))
    images = nodes.ParallelVAEDecode.execute("images", stream=stream).args[0]
    assert first.path == second.path and len(images) == 38 and latent["samples"].shape[2] == 11 and len(calls) == 2


def test_temporary_files_go_when_no_cached_result_needs_them(nodes, image, host):
    sound = audio(0.5)
    videos = [nodes.Generate.execute("nano", image, sound, **SIZE, **SETTINGS | {"seed": k}, loudness=True).args[0][0] for k in range(3)]
    gc.collect()
    assert {path.name for path in host.folder.glob("temp/*")} == {video.path.name for video in videos}
    del videos[:2]
    assert [path.name for path in host.folder.glob("temp/*")] == [videos[0].path.name]


def test_what_was_kept_on_disk_goes_with_the_stream(nodes, image, host):
    stream, latent = stream_of(nodes, image)
    list(stream.chunks())
    assert len(list(host.folder.glob("temp/*/*"))) == 5, "three pieces of the first chunk, two of the second"
    del stream, latent
    assert not list(host.folder.glob("temp/*"))


@pytest.mark.parametrize(
    "look", [lambda x: x["samples"], lambda x: x.copy()["samples"], lambda x: dict(x)["samples"], lambda x: {**x}["samples"]]
)
def test_a_latent_is_made_however_a_node_looks_at_it(nodes, image, look):
    _, latent = stream_of(nodes, image)
    assert look(latent).shape == (1, 64, 1 + 10, 4, 4)
    with pytest.raises(KeyError):
        latent["noise_mask"]


def test_a_latent_of_enlarged_frames_decodes_to_them_as_long_as_it_has_its_picture(nodes, image):
    stream, latent = stream_of(nodes, image, audio(0.3), SIZE | {"size": "256"})
    engine = nodes.load.engines.engine_for(stream.spec)
    whole, cut = latent.copy(), latent.copy()
    small = {name: value for name, value in whole.items() if name != nodes.latent.PICTURE}
    cut["samples"] = cut["samples"][..., :4, :4]
    sides = [nodes.film.film_of_latent(engine, each, None).width for each in (whole, small, cut)]
    assert whole["samples"].shape[3:] == (18, 14) and sides == [224, 112, 32], "a latent that was cut shows another part"
    made = torch.cat(list(nodes.film.film_of_latent(engine, whole, None).pieces()))
    shown = torch.cat([chunk.frames_THWC for chunk in stream.chunks()])
    assert made.shape == shown.shape == (8, 288, 224, 3)
    assert (made[:4].int() - shown[:4].int()).abs().float().mean() < 8, "colors are not matched again"


def test_a_latent_decodes_to_the_streams_length_and_first_frames(nodes, image):
    stream, latent = stream_of(nodes, image)
    spec = stream.spec
    (_, video) = nodes.ParallelVAEDecode.execute("video", latent=latent, engine=spec, speech=stream.speech).args
    images, _ = nodes.ParallelVAEDecode.execute("images", latent=latent, engine=spec).args
    assert len(images) == probe_video(video.path).frames == 38
    engine = nodes.load.engines.engine_for(spec)
    x = engine.decode(engine.preset.vae.scale(torch.Tensor(latent["samples"][0])))
    want = torch.cat([(piece.permute(1, 2, 3, 0) + 1) / 2 for piece in x])[1:39]
    assert (images - want).abs().max() < 1 / 255 + 1e-5
    shown = torch.cat([chunk.frames_THWC for chunk in stream.chunks()]) / 255
    assert (images[:28] - shown[:28]).abs().mean() < (images[:28] - shown[5:33]).abs().mean(), "in time with the stream"


def test_a_video_has_every_frame_and_the_whole_sound(nodes, image, host):
    sound = audio(1.51, 44100, channels=2)
    (video,) = nodes.Generate.execute("nano", image, sound, **SIZE, **SETTINGS, loudness=True).args[0]
    info = probe_video(video.path)
    assert (info.frames, info.width, info.height, info.audio_channels, info.audio_rate) == (38, 32, 32, 2, 44100)
    assert 0 <= info.audio_duration - 1.51 < 1024 / 44100
    assert [path.suffix for path in (host.folder / "temp").iterdir()] == [".mp4"], "the files of the sound track and the crop are gone"
    pieces = [value for value, _ in host.progress if value]
    assert pieces == sorted(pieces) and pieces[-1] == 38 and 0 < pieces[0] < 28 and {total for _, total in host.progress} == {38}


def test_two_speakers_talk_in_one_picture_and_one_sound_track(nodes, image):
    spec = nodes.LoadModel.execute("nano", "auto", "auto", 1, False).args[0]
    speech, frames = nodes.AudioEmbedding.execute(audio(0.5), True, audio(1.2, 48000)).args
    left = torch.zeros(1, 48, 40)
    left[:, :, :20] = 1
    (reference,) = nodes.ReferenceConditioning.execute(spec, image, **SIZE, first_mask=left, second_mask=1 - left).args[0]
    assert frames == 30 and reference.speaker_masks_KHW.sum(0).unique().tolist() == [1]
    stream = nodes.sample.make_stream(spec, reference, speech, **SETTINGS)
    info = probe_video(nodes.ParallelVAEDecode.execute("video", stream=stream).args[1].path)
    assert info.frames == 30 and 0 <= info.audio_duration - 1.2 < 1024 / 48000


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_stopped_between_steps_it_leaves_no_file_and_a_warm_engine(nodes, image, host, allowed):
    stream, _ = stream_of(nodes, image)
    calls = count_decodes(nodes)
    host.checks_left = allowed
    with pytest.raises(Interrupted):
        nodes.ParallelVAEDecode.execute("video", stream=stream)
    assert not list(host.folder.glob("temp/*")) and len(calls) <= 1
    host.checks_left = 10**9
    assert probe_video(nodes.ParallelVAEDecode.execute("video", stream=stream).args[1].path).frames == 38
    assert [slot.num_loads for slot in nodes.load.engines.SLOTS.values()] == [1]


def test_an_error_in_one_run_leaves_the_next_untouched(nodes, image):
    with pytest.raises(ValueError, match="finite|NaN"):
        stream_of(nodes, image, sound=audio() | {"waveform": torch.full((1, 1, 16000), float("nan"))})
    stream, _ = stream_of(nodes, image)
    assert sum(len(chunk.frames_THWC) for chunk in stream.chunks()) == 38


def test_the_output_that_was_not_chosen_says_how_to_get_it(nodes, image):
    stream, _ = stream_of(nodes, image)
    blocked, video = nodes.ParallelVAEDecode.execute("video", stream=stream).args
    assert "set its output to images" in blocked.message and av.open(str(video.path)).streams.video


def test_images_that_do_not_fit_in_memory_are_refused_before_anything_is_made(nodes, image):
    stream, _ = stream_of(nodes, image)
    film = stream.film()
    huge = type(film)(**vars(film) | {"num_frames": 10**9})
    with pytest.raises(ValueError, match="need .* GB .*; set output to video"):
        nodes.film.images_of(huge)


def test_progress_counts_the_steps_of_the_first_chunk_and_tells_the_time_left(nodes, image, host):
    stream, _ = stream_of(nodes, image)
    stream = nodes.sample.make_stream(stream.spec, stream.reference, stream.speech, **SETTINGS | {"steps": 4})
    host.progress.clear()
    next(stream.chunks())
    assert [value for value, _ in host.progress[:4]] == [3.5, 7, 10.5, 14], "before the first frame"
    assert host.lines[-2].startswith("step 4 of 4, 0 of 38 frames, about ")
    assert host.lines[-1].startswith("4 of 38 frames, about ") and host.lines[-1].endswith(" left")
    assert host.pictures == [((32, 32), True)], "at the video's size"


def test_loading_is_a_stage_that_says_what_it_does(nodes, host):
    nodes.LoadModel.execute("nano", "auto", "auto", 1, False)
    assert host.lines[0].startswith("Loading nano: ") and "MB of weights" in host.lines[0] and host.lines[-1].startswith("Loaded nano in ")


def test_a_latent_that_was_saved_and_loaded_shows_the_same_frames_with_the_sound(nodes, image):
    stream, latent = stream_of(nodes, image, audio(1.0))
    loaded = {"samples": torch.Tensor(latent["samples"]).float()}  # all that SaveLatent and LoadLatent keep
    kept, again = (
        nodes.ParallelVAEDecode.execute("images", latent=x, engine=stream.spec, speech=stream.speech).args[0] for x in (latent, loaded)
    )
    assert len(kept) == 25 and torch.equal(kept, again)
    alone = nodes.ParallelVAEDecode.execute("images", latent=loaded, engine=stream.spec).args[0]
    assert len(alone) == 29 and torch.equal(alone[1:26], kept), "as a core decoder shows it: one frame of the picture first"


def test_a_core_decoder_says_in_one_line_that_it_cannot_decode_nanos_latents(nodes, image):
    _, latent = stream_of(nodes, image)
    core = torch.nn.Conv3d(16, 8, 3)
    with pytest.raises(ValueError, match="^these latents are nano's, which a core VAE cannot decode; use LiveTalk Parallel VAE Decode"):
        core(latent["samples"].to(torch.float32) * 0.5)


def test_the_measured_error_of_fewer_steps_is_shown_on_the_node(nodes, image, host):
    stream, _ = stream_of(nodes, image)
    list(nodes.sample.make_stream(stream.spec, stream.reference, stream.speech, **SETTINGS | {"steps": 2}).chunks())
    note = host.lines[-1].split("\n")[1]
    assert re.fullmatch(r"steps 2: on the first chunk .* differ .* by [\d.]+% .*; choose the model's default for those", note)


@pytest.mark.parametrize("targets, refused", [(["9"], True), (["8"], False)])
def test_an_output_that_is_not_chosen_is_refused_only_if_this_run_reads_it(nodes, image, targets, refused, monkeypatch):
    stream, _ = stream_of(nodes, image)
    prompt = {"4": {"inputs": {}}, "8": {"inputs": {"video": ["4", 1]}}, "9": {"inputs": {"images": ["4", 0]}}}
    monkeypatch.setattr(nodes.host, "outputs_of_run", lambda: targets)
    nodes.ParallelVAEDecode.hidden = SimpleNamespace(unique_id="4", dynprompt=SimpleNamespace(get_original_prompt=lambda: prompt))
    if not refused:
        assert nodes.ParallelVAEDecode.execute("video", stream=stream).args[1].path.exists()
        return
    calls = count_decodes(nodes)
    with pytest.raises(ValueError, match="makes video here; set its output to images"):
        nodes.ParallelVAEDecode.execute("video", stream=stream)
    assert calls == []
