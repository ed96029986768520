"""Nodes run on the shipped model: the same frames as the core's, made once and when asked, stopped at once, nothing left behind."""

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
SIZE = {"prompt": "a face", "size": "custom", "width": 32, "height": 32}


def audio(seconds: float = 1.5, rate: int = 16000, channels: int = 1) -> dict:
    samples = torch.from_numpy(speech_like(seconds, rate)).float()
    return {"waveform": samples.expand(1, channels, -1), "sample_rate": rate}


@pytest.fixture
def image():
    return torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(0))


class Links:
    """A prompt in which node 4's outputs are connected this many times."""

    def __init__(self, *outputs: int) -> None:
        self.outputs = outputs

    def get_original_prompt(self) -> dict:
        return {str(9 + k): {"inputs": {"x": ["4", output], "n": 3}} for k, output in enumerate(self.outputs)}


def stream_of(nodes, image, *links: int, sound: dict | None = None):
    """(stream, latent) of the sampler, with its outputs connected so."""
    spec = nodes.LoadModel.execute("nano", "auto", "auto", 1, False).args[0]
    speech = nodes.AudioEmbedding.execute(sound or audio(), True).args[0]
    reference = nodes.ReferenceConditioning.execute(spec, image, **SIZE).args[0]
    nodes.StreamingBidirectionalSampler.hidden = SimpleNamespace(unique_id="4", dynprompt=Links(*links))
    return nodes.StreamingBidirectionalSampler.execute(spec, reference, speech, **SETTINGS).args


def count_decodes(nodes) -> list[int]:
    """Grows by one for every chunk that the engine decodes."""
    (slot,) = nodes.load.engines.SLOTS.values()
    calls, decode = [], slot.engine.models.vae.decode
    slot.engine.models.vae.decode = lambda *args: (calls.append(1), decode(*args))[1]
    return calls


def test_a_stream_gives_the_frames_that_the_core_gives(nodes, image):
    stream, _ = stream_of(nodes, image, 0)
    engine = load_engine("nano", "cpu")
    opened = engine.open(engine.reference(stream.reference.pixels_CHW, "a face"), StreamSettings(**SETTINGS))
    want = torch.cat([chunk.frames_THWC for chunk in talk(opened, iter([audio()["waveform"][0]]), 38)])
    images = nodes.ParallelVAEDecode.execute("images", stream=stream).args[0]
    assert images.shape == (38, 32, 32, 3) and images.dtype == torch.float32
    assert torch.equal((images * 255).round().to(torch.uint8), want)


def test_the_default_shift_is_the_one_that_the_shipped_model_was_trained_with(nodes, image):
    stream, _ = stream_of(nodes, image, 0)
    own = load_engine("nano", "cpu").preset.shift
    frames = {}
    for shift in (nodes.sample.OWN_SHIFT, own, own + 2):
        settings = SETTINGS | {"steps": 2, "shift": shift}
        made = nodes.sample.make_stream(stream.spec, stream.reference, stream.speech, **settings)
        frames[shift] = next(made.chunks()).frames_THWC
    assert torch.equal(frames[0], frames[own]) and not torch.equal(frames[0], frames[own + 2])


def test_nothing_is_made_before_somebody_asks(nodes, image):
    stream, latent = stream_of(nodes, image, 0)
    calls = count_decodes(nodes)
    chunks = stream.chunks()
    assert calls == []
    next(chunks)
    assert len(calls) == 1 and stream.spool is None
    assert dict.__len__(latent) == 0


def test_a_stream_with_two_readers_is_decoded_once(nodes, image):
    stream, latent = stream_of(nodes, image, 0, 1)
    calls = count_decodes(nodes)
    frames = torch.cat([chunk.frames_THWC for chunk in stream.chunks()])
    again = torch.cat([chunk.frames_THWC for chunk in stream.chunks()])
    assert torch.equal(frames, again)
    assert latent["samples"].shape == (1, 64, 9 + 7, 4, 4)
    assert len(calls) == 2, "two chunks"


def test_a_stream_with_one_reader_leaves_nothing_on_disk(nodes, image, host):
    stream, _ = stream_of(nodes, image, 0)
    assert sum(len(chunk.frames_THWC) for chunk in stream.chunks()) == 38
    assert not list(host.folder.glob("temp/*"))


def test_what_was_kept_on_disk_goes_with_the_stream(nodes, image, host):
    stream, latent = stream_of(nodes, image, 0, 0)
    list(stream.chunks())
    assert len(list(host.folder.glob("temp/*/*"))) == 5, "three pieces of the first chunk, two of the second"
    del stream, latent
    assert not list(host.folder.glob("temp/*"))


@pytest.mark.parametrize(
    "look", [lambda x: x["samples"], lambda x: x.copy()["samples"], lambda x: dict(x)["samples"], lambda x: {**x}["samples"]]
)
def test_a_latent_is_made_however_a_node_looks_at_it(nodes, image, look):
    _, latent = stream_of(nodes, image, 1)
    assert look(latent).shape == (1, 64, 16, 4, 4)
    with pytest.raises(KeyError):
        latent["noise_mask"]


def test_a_latent_decodes_to_the_streams_length_and_first_frames(nodes, image):
    stream, latent = stream_of(nodes, image, 0, 1)
    spec = stream.spec
    (_, video) = nodes.ParallelVAEDecode.execute("video", latent=latent, engine=spec, speech=stream.speech).args
    images, _ = nodes.ParallelVAEDecode.execute("images", latent=latent, engine=spec).args
    assert len(images) == probe_video(video.path).frames == 38
    engine = nodes.load.engines.engine_for(spec)
    x = engine.decode(engine.preset.vae.scale(latent["samples"][0, :, :9]))
    want = torch.cat([(piece.permute(1, 2, 3, 0) + 1) / 2 for piece in x])[5:]
    assert (images[:28] - want).abs().max() < 1 / 255 + 1e-5


def test_a_video_has_every_frame_and_the_whole_sound(nodes, image, host):
    sound = audio(1.51, 44100, channels=2)
    (video,) = nodes.Generate.execute("nano", image, sound, **SIZE, **SETTINGS, loudness=True).args
    info = probe_video(video.path)
    assert (info.frames, info.width, info.height, info.audio_channels, info.audio_rate) == (38, 32, 32, 2, 44100)
    assert 0 <= info.audio_duration - 1.51 < 1024 / 44100
    assert [path.suffix for path in (host.folder / "temp").iterdir()] == [".mp4"], "the sound track's file is gone"
    assert host.progress == [(4, 38), (16, 38), (28, 38), (32, 38), (38, 38)]


def test_two_speakers_talk_in_one_picture_and_one_sound_track(nodes, image):
    spec = nodes.LoadModel.execute("nano", "auto", "auto", 1, False).args[0]
    speech, frames = nodes.AudioEmbedding.execute(audio(0.5), True, audio(1.2, 48000)).args
    left = torch.zeros(1, 48, 40)
    left[:, :, :20] = 1
    reference = nodes.ReferenceConditioning.execute(spec, image, **SIZE, first_mask=left, second_mask=1 - left).args[0]
    assert frames == 30 and reference.speaker_masks_KHW.sum(0).unique().tolist() == [1]
    stream = nodes.sample.make_stream(spec, reference, speech, **SETTINGS)
    info = probe_video(nodes.ParallelVAEDecode.execute("video", stream=stream).args[1].path)
    assert info.frames == 30 and 0 <= info.audio_duration - 1.2 < 1024 / 48000


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_stopped_between_steps_it_leaves_no_file_and_a_warm_engine(nodes, image, host, allowed):
    stream, _ = stream_of(nodes, image, 0)
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
        stream_of(nodes, image, 0, sound=audio() | {"waveform": torch.full((1, 1, 16000), float("nan"))})
    stream, _ = stream_of(nodes, image, 0)
    assert sum(len(chunk.frames_THWC) for chunk in stream.chunks()) == 38


def test_the_output_that_was_not_chosen_says_how_to_get_it(nodes, image):
    stream, _ = stream_of(nodes, image, 0)
    blocked, video = nodes.ParallelVAEDecode.execute("video", stream=stream).args
    assert "set its output to images" in blocked.message and av.open(str(video.path)).streams.video


def test_a_connected_output_that_is_not_chosen_is_refused_before_anything_is_made(nodes, image):
    stream, _ = stream_of(nodes, image, 0)
    calls = count_decodes(nodes)
    nodes.ParallelVAEDecode.hidden = SimpleNamespace(unique_id="4", dynprompt=Links(0))
    with pytest.raises(ValueError, match="makes video here; set its output to images"):
        nodes.ParallelVAEDecode.execute("video", stream=stream)
    assert calls == []


def test_images_that_do_not_fit_in_memory_are_refused_before_anything_is_made(nodes, image):
    stream, _ = stream_of(nodes, image, 0)
    film = nodes.decode.film_of_stream(stream)
    huge = type(film)(**vars(film) | {"num_frames": 10**9})
    with pytest.raises(ValueError, match="need .* GB .*; set output to video"):
        nodes.film.images_of(huge)
