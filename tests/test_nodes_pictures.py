"""Pictures that come as a batch or in a video: one video each where asked; a video gives its first frame and its sound."""

import io
import wave
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_nodes_inputs import SIZE, sound

from livetalk_core.media.video import VideoWriter, probe_video, read_frames


def test_each_picture_of_a_batch_gives_a_video_where_asked(nodes):
    batch, settings = torch.rand(3, 64, 64, 3), {"seed": 3, "steps": 1, "shift": 0.0, "color_strength": 1.0, "loudness": True}
    out = nodes.Generate.execute("nano", batch, sound(0.2), **SIZE, **settings, each_picture=True)
    assert len({video.path for video in out.args[0]}) == len(out.ui["livetalk_video"]) == 3
    assert [probe_video(video.path).frames for video in out.args[0]] == [5, 5, 5]
    first, second = (next(read_frames(video.path)).astype(int) for video in out.args[0][:2])
    assert abs(first - second).mean() > 2, "another picture, another video"
    masks = torch.zeros(3, 64, 64)
    masks[1, :, :32] = masks[:, 32:] = 1
    spec = nodes.load.engines.EngineSpec()
    references = nodes.ReferenceConditioning.execute(spec, batch, **SIZE, first_mask=masks, each_picture=True).args[0]
    assert len(references) == 3 and [int(each.speaker_masks_KHW[0].sum()) for each in references][0::2] == [512, 512]
    assert int(references[1].speaker_masks_KHW[0].sum()) == 768, "each picture has its own mask"


class Video:
    """ComfyUI's VIDEO of a file, as far as the node uses it."""

    def __init__(self, source, start: float = 0, duration: float = 0) -> None:
        self.source, self.start, self.duration = source, start, duration

    def get_active_trim_window(self) -> tuple[float, float]:
        return self.start, self.duration

    def get_stream_source(self):
        return self.source

    def as_trimmed(self, start: float, duration: float, strict_duration: bool):
        return Video(self.source, self.start + start, duration)

    def get_components(self) -> SimpleNamespace:
        assert self.duration < 1, "a long video is never decoded whole"
        first = round(25 * self.start)
        frames = np.stack(list(read_frames(self.source)))[first : first + round(25 * self.duration)]
        return SimpleNamespace(images=torch.from_numpy(frames) / 255)


@pytest.fixture
def film(tmp_path):
    """Two seconds: gray gets brighter, a tone that starts after one second."""
    wav = tmp_path / "tone.wav"
    tone = np.sin(np.arange(48000) / 20) * 12000
    with wave.open(str(wav), "wb") as out:
        out.setparams((2, 2, 48000, 0, "NONE", ""))
        out.writeframes(np.repeat(np.concatenate([np.zeros(48000), tone]), 2).astype("<i2").tobytes())
    with VideoWriter(tmp_path / "film.mp4", width=32, height=32, fps=Fraction(25), audio=wav) as writer:
        for k in range(50):
            writer.write(np.full((1, 32, 32, 3), 4 * k + 20, np.uint8))
    return tmp_path / "film.mp4"


def test_a_video_gives_its_first_frame_and_its_sound(nodes, film):
    image, audio = nodes.FromVideo.execute(Video(str(film))).args
    assert image.shape == (1, 32, 32, 3) and abs(float(image.mean()) * 255 - 20) < 6
    loud = audio["waveform"][0, 0].abs().unfold(0, 4800, 4800).amax(1)
    assert audio["sample_rate"] == 48000 and audio["waveform"].shape[:2] == (1, 2)
    assert len(loud) == 20, "of 0.1 s"
    assert loud[:9].max() < 0.01 and loud[11:].min() > 0.2


def test_a_trimmed_video_gives_the_frame_and_the_sound_of_its_part(nodes, film):
    image, audio = nodes.FromVideo.execute(Video(str(film), 1.0, 0.5)).args
    assert abs(float(image.mean()) * 255 - 120) < 6
    assert audio["waveform"].shape[2] == 24000 and audio["waveform"][..., 4800:].abs().max() > 0.2


def test_a_video_in_memory_is_read_from_its_bytes_and_leaves_no_file(nodes, film, host):
    memory = Video(str(film))
    memory.get_stream_source = lambda: io.BytesIO(film.read_bytes())
    audio = nodes.FromVideo.execute(memory).args[1]
    assert 0 <= audio["waveform"].shape[2] - 96000 < 1024 and not list((host.folder / "temp").iterdir())


def test_a_silent_video_gives_a_picture_and_sound_that_says_so_where_it_is_used(nodes, tmp_path):
    with VideoWriter(tmp_path / "silent.mp4", width=32, height=32, fps=Fraction(25)) as writer:
        writer.write(np.zeros((2, 32, 32, 3), np.uint8))
    image, audio = nodes.FromVideo.execute(Video(str(tmp_path / "silent.mp4"))).args
    assert image.shape == (1, 32, 32, 3) and audio is None
    with pytest.raises(ValueError, match=r"^audio is empty: .*connect a sound"):
        nodes.AudioEmbedding.execute(audio)


def test_frames_in_memory_are_not_encoded_for_it(nodes, monkeypatch):
    held = SimpleNamespace(images=torch.rand(5, 32, 32, 3), audio=sound(0.2))
    video = nodes.types.InputImpl.VideoFromComponents(held)
    image, audio = nodes.FromVideo.execute(video).args
    assert torch.equal(image, held.images[:1]) and audio is held.audio


@pytest.mark.parametrize(
    "image, mask, message",
    [
        (torch.rand(0, 64, 64, 3), None, "^image is a batch without pictures; connect one with at least one picture$"),
        (torch.rand(1, 1, 1, 3), None, "^image is 1x1 pixels; each side must be 32 or more"),
        (torch.full((1, 64, 64, 3), torch.nan), None, "^image has NaN or infinity; every value must be 0 to 1$"),
        (torch.rand(1, 64, 64, 2), None, "^image of shape"),
        (torch.rand(1, 64, 64, 3), torch.full((1, 64, 64), torch.nan), "^first_mask has NaN or infinity"),
    ],
)
def test_an_error_names_its_input_once_and_in_one_line(nodes, image, mask, message):
    with pytest.raises(ValueError, match=message) as error:
        nodes.ReferenceConditioning.execute(nodes.load.engines.EngineSpec(), image, **SIZE, first_mask=mask)
    assert "\n" not in str(error.value) and "tensor" not in str(error.value) and "--" not in str(error.value)


def test_what_a_broken_video_or_one_of_several_tracks_says_names_no_option(nodes, film, host, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[:-900])
    with pytest.raises(ValueError) as error:
        nodes.from_video.sound_of(Video(str(cut)))
    assert "\n" not in str(error.value) and "--" not in str(error.value)
    told = nodes.words.name_inputs("sound track 1 was taken of two; --audio-track N takes another", {"; --audio-track N takes another": ""})
    assert told == "sound track 1 was taken of two"
