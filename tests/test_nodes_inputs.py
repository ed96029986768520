"""Inputs of the nodes: every mistake is one line with the value, the rule and the way out; sound is passed on sample by sample."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from made import GRAY, HEAD, small_face, speech_like
from PIL import Image
from standin import ROOT

from livetalk_core.media.audio import probe_audio, read_audio, to_mono
from livetalk_core.presets import BY_NAME
from livetalk_core.sizes import BUCKETS, choose_size

SIZE = {"prompt": "", "size": "custom", "width": 32, "height": 32, "any_size": True}
IMAGE = torch.rand(1, 64, 64, 3)


def sound(seconds: float, rate: int = 16000, channels: int = 1) -> dict:
    waveform = torch.from_numpy(np.stack([speech_like(seconds, rate, seed) for seed in range(channels)]))
    return {"waveform": waveform[None].float(), "sample_rate": rate}


@pytest.mark.parametrize("rate, channels, seconds", [(16000, 1, 2.3), (44100, 2, 1.013), (8000, 1, 0.04), (48000, 6, 3.5)])
def test_blocks_joined_are_the_whole_sound_resampled(nodes, rate, channels, seconds):
    given = sound(seconds, rate, channels)
    speech = nodes.audio.speech_from(given, None, True)
    joined = torch.cat(list(speech.blocks()), dim=1)
    assert np.array_equal(joined[0].numpy(), to_mono(given["waveform"][0].numpy(), rate))


@pytest.mark.parametrize(
    "num_samples, frames", [(1, 1), (640, 1), (959, 1), (960, 2), (961, 2), (8000, 13), (16000, 25), (40000, 63), (40321, 63)]
)
def test_the_length_is_the_nearest_number_of_frames(nodes, num_samples, frames):
    speech = nodes.audio.speech_from({"waveform": torch.zeros(1, 1, num_samples), "sample_rate": 16000}, None, True)
    assert speech.num_frames == frames


def test_two_speakers_lie_side_by_side_with_silence_after_the_shorter(nodes):
    first, second = sound(0.7), sound(1.3, 44100, 2)
    blocks = torch.cat(list(nodes.audio.speech_from(first, second, True).blocks()), dim=1)
    assert blocks.shape == (2, 20800)
    assert torch.equal(blocks[0, :11200], first["waveform"][0, 0]) and not blocks[0, 11200:].any()


def test_the_sound_track_keeps_rate_and_channels(nodes, tmp_path):
    given = sound(1.25, 44100, 2)
    path = nodes.speech.write_sound_track(nodes.audio.speech_from(given, None, True), tmp_path / "track.wav")
    info = probe_audio(path)
    assert (info.sample_rate, info.channels, info.duration) == (44100, 2, Fraction(given["waveform"].shape[2], 44100))
    back, want = np.concatenate(list(read_audio(path, 44100))), given["waveform"][0].mean(0).numpy()
    assert np.abs(back - want).max() < 2 / 32768


def test_a_sound_track_over_the_wav_limit_is_refused(nodes, tmp_path):
    with pytest.raises(ValueError, match=r"audio of 13\.0 h with 1 channels is over 4 GB"):
        nodes.speech.write_wav(tmp_path / "long.wav", iter(()), 1, 48000, 13 * 3600 * 48000)


@pytest.mark.parametrize(
    "waveform, message",
    [
        (torch.zeros(2, 1, 800), r"audio of shape \[2, 1, 800\] must be one sound"),
        (torch.zeros(1, 800), r"audio of shape \[1, 800\] must be one sound"),
        (torch.zeros(1, 1, 0), "audio has no samples"),
        (torch.full((1, 1, 800), float("nan")), "audio has NaN or infinity"),
        (torch.ones(1, 1, 800, dtype=torch.bool), "audio of type torch.bool must hold numbers"),
    ],
)
def test_sound_that_cannot_be_used_is_refused(nodes, waveform, message):
    with pytest.raises(ValueError, match=message) as error:
        nodes.AudioEmbedding.execute({"waveform": waveform, "sample_rate": 16000}, True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"audio": None}, "audio is empty: its video probably has no sound"),
        ({"audio": None, "second_audio": sound(0.5)}, "there is no first speaker; connect the first speaker's sound"),
        ({"audio": sound(0.5) | {"sample_rate": 0}}, "a sample rate of 0 Hz; it must be 1000 to 1000000"),
        ({"audio": sound(0.5) | {"sample_rate": 44100.5}}, "a sample rate of 44100.5 Hz"),
        ({"audio": sound(0.5), "second_audio": sound(0.5) | {"sample_rate": -1}}, "a sample rate of -1 Hz"),
        ({"audio": sound(0.5), "split_channels": True}, "needs one audio with 2 channels, but it has 1; switch it off"),
        ({"audio": sound(0.5, channels=2), "second_audio": sound(0.5), "split_channels": True}, "second_audio is connected; switch it off"),
    ],
)
def test_missing_sound_and_impossible_rates_are_told_in_one_line(nodes, given, message):
    with pytest.raises(ValueError, match=message) as error:
        nodes.AudioEmbedding.execute(**{"loudness": True, **given})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "dtype, full_scale",
    [
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.float64, None),
        (torch.int16, 2**15),
        (torch.int32, 2**31),
        (torch.int8, 2**7),
        (torch.uint8, 2**7),
        (torch.int64, 2**63),
    ],
)
def test_sound_of_any_number_type_is_heard_and_kept_as_its_float32(nodes, tmp_path, dtype, full_scale):
    exact = (sound(0.7, 44100, 2)["waveform"] * 100).round() / 128  # numbers that every type holds
    exact = (exact * 64).round() / 64
    middle = 2**7 if dtype == torch.uint8 else 0
    given = exact.to(dtype) if full_scale is None else (exact.double() * full_scale + middle).to(dtype)
    speeches = [nodes.audio.speech_from({"waveform": waveform, "sample_rate": 44100}, None, True) for waveform in (exact, given)]
    ours, theirs = (torch.cat(list(speech.blocks()), dim=1) for speech in speeches)
    assert torch.equal(ours, theirs) and ours.abs().max() > 0.1
    tracks = [nodes.speech.write_sound_track(speech, tmp_path / f"{i}.wav").read_bytes() for i, speech in enumerate(speeches)]
    assert tracks[0] == tracks[1]


def test_two_channels_can_be_two_speakers_and_keep_their_sound_track(nodes, tmp_path):
    given = sound(1.0, 16000, 2)
    speech = nodes.AudioEmbedding.execute(given, True, split_channels=True).args[0]
    assert speech.people == 2 and torch.equal(torch.cat(list(speech.blocks()), dim=1), given["waveform"][0])
    assert probe_audio(nodes.speech.write_sound_track(speech, tmp_path / "track.wav")).channels == 2


def test_one_mask_lets_one_speaker_talk_and_the_rest_be_silent(nodes):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    spec = nodes.load.engines.EngineSpec()
    reference = nodes.ReferenceConditioning.execute(spec, IMAGE, **SIZE, first_mask=mask).args[0][0]
    assert torch.equal(reference.speaker_masks_KHW.sum(0), torch.ones(32, 32)) and not reference.speaker_masks_KHW[2].any()
    stream = nodes.sample.make_stream(spec, reference, nodes.audio.speech_from(sound(0.5), None, True), 0, 1, 5.0, 1.0)
    assert sum(len(chunk.frames_THWC) for chunk in stream.chunks()) == 13


def test_the_crop_can_be_moved(nodes):
    image = torch.linspace(0, 1, 96)[None, :, None, None].expand(1, 96, 64, 3).contiguous()
    spec = nodes.load.engines.EngineSpec()
    means = [
        float(nodes.ReferenceConditioning.execute(spec, image, **SIZE, **how).args[0][0].pixels_CHW.mean())
        for how in ({}, {"crop": "center"}, {"crop": "top"}, {"crop": "0.5,1"})
    ]
    assert means[0] == means[1] and means[2] < means[1] - 0.2 and means[3] > means[1] + 0.2


def test_a_small_face_is_cropped_to(nodes, host):
    """As `livetalk generate` does; `center` shows the whole picture all the same, and `face` also crops to a large one."""
    pytest.importorskip("cv2")
    head, wide = Image.open(HEAD), small_face()
    spec = nodes.load.engines.EngineSpec()

    def shown(picture, **how):
        image = torch.from_numpy(np.array(picture.convert("RGB")))[None] / 255
        reference = nodes.ReferenceConditioning.execute(spec, image, "", "custom", 128, 128, **how).args[0][0]
        return reference.pixels_CHW

    gray = torch.tensor(GRAY).view(3, 1, 1) / 127.5 - 1
    background = lambda pixels_CHW: float(((pixels_CHW - gray).abs().amax(0) < 0.02).float().mean())  # noqa: E731
    assert background(shown(wide, crop="center")) > 0.6
    assert background(shown(wide)) == background(shown(wide, crop="auto")) == background(shown(wide, crop="face")) < 0.3
    assert any("a face was found" in line for line in host.lines)
    assert torch.equal(shown(head), shown(head, crop="center")) and not torch.equal(shown(head), shown(head, crop="face"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"crop": "face"}, r"image has no face that could be found; crop it to the face with another node, and set crop to center"),
        ({"crop": "face", "first_mask": torch.ones(1, 64, 64)}, r"crop face is for one speaker without masks"),
        ({"image": torch.rand(1, 1, 1, 3)}, r"^image is 1x1 pixels; each side must be 32 or more"),
        ({"image": torch.full((1, 64, 64, 3), float("nan"))}, r"NaN or infinity"),
        ({"width": 40}, r"width=40 must be a multiple of 16; nearest: 32 or 48"),
        ({"second_mask": torch.ones(1, 64, 64)}, r"second_mask is given without first_mask"),
        ({"crop": "middle"}, r"crop 'middle' must be auto, face, center, top, or X,Y with fractions"),
        ({"crop": "1.5,0"}, r"crop '1.5,0' must be auto, face, center, top, or X,Y"),
        ({"first_mask": torch.ones(1, 64, 64), "second_mask": torch.ones(1, 32, 64)}, r"second_mask of 64x32 pixels must be as large"),
        ({"first_mask": torch.ones(1, 64, 64), "second_mask": torch.zeros(1, 64, 64)}, r"second_mask is black all over"),
        (
            {"first_mask": torch.zeros(1, 16, 16)},
            r"^first_mask is black all over; paint the speaker in Load Image's mask editor, or disconnect",
        ),
        ({"clip_vision_output": {"penultimate_hidden_states": torch.zeros(1, 257, 1280)}}, r"\(257, 1280\) must be rows of 50 for nano"),
    ],
)
def test_a_reference_that_cannot_be_made_is_refused(nodes, change, message):
    spec = nodes.load.engines.EngineSpec()
    with pytest.raises(ValueError, match=message) as error:
        nodes.ReferenceConditioning.execute(**{"engine": spec, "image": IMAGE, **SIZE} | change)
    assert "\n" not in str(error.value)


def test_the_preview_is_the_crop_that_the_stream_uses(nodes):
    out = nodes.ReferenceConditioning.execute(nodes.load.engines.EngineSpec(), torch.rand(1, 100, 60, 3), **SIZE)
    preview = out.ui["images"]
    assert preview.shape == (1, 32, 32, 3)
    assert torch.allclose(preview[0].permute(2, 0, 1) * 2 - 1, out.args[0][0].pixels_CHW, atol=1e-6)


@pytest.mark.parametrize(
    "size, picture, want", [("128", (64, 64), (128, 128)), ("416", (90, 160), (416, 720)), ("custom", (9, 9), (48, 32))]
)
def test_sizes_come_from_the_bucket_nearest_to_the_pictures_shape(nodes, size, picture, want, engine):
    assert nodes.reference.video_size(engine.preset, picture, size, 48, 32, any_size=True) == want
    assert nodes.reference.video_size(engine.preset, (90, 160), "auto", 48, 32, any_size=False) in BUCKETS[engine.preset.bucket]


def test_clip_features_from_another_node_take_the_place_of_the_models_own(nodes):
    given = torch.randn(1, 257, 50)
    made = nodes.ReferenceConditioning.execute(
        nodes.load.engines.EngineSpec(), IMAGE, **SIZE, clip_vision_output={"penultimate_hidden_states": given}
    )
    assert torch.equal(made.args[0][0].image_LD, given[0])


def test_speakers_and_masks_must_fit(nodes):
    spec = nodes.load.engines.EngineSpec()
    reference = nodes.ReferenceConditioning.execute(spec, IMAGE, **SIZE).args[0][0]
    two = nodes.audio.speech_from(sound(0.5), sound(0.5), True)
    with pytest.raises(ValueError, match=r"2 speaker\(s\) with no speaker masks"):
        nodes.sample.make_stream(spec, reference, two, 0, 1, 5.0, 1.0)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "needs a stream or a latent"),
        ({"stream": 1, "latent": {}}, "needs a stream or a latent"),
        ({"latent": {}}, "a latent needs an engine"),
    ],
)
def test_decode_wants_one_thing_to_decode(nodes, given, message):
    with pytest.raises(ValueError, match=message):
        nodes.ParallelVAEDecode.execute("video", **given)


@pytest.mark.parametrize("shape", [(1, 64, 4, 4), (2, 64, 3, 4, 4), (1, 16, 3, 4, 4)])
def test_a_latent_of_another_model_is_refused_with_the_channels_of_this_one(nodes, shape, engine):
    with pytest.raises(ValueError, match=r"must be \[1, 64, t, h, w\]: the engine's model has 64 channels; connect the engine that made"):
        nodes.ParallelVAEDecode.execute("images", latent={"samples": torch.zeros(shape)}, engine=nodes.load.engines.EngineSpec())
    with pytest.raises(ValueError, match=r"must be \[1, 16, t, h, w\]: the engine's model has 16 channels"):
        nodes.film.film_of_latent(engine, {"samples": torch.zeros(1, 64, 3, 4, 4)}, None)


@pytest.mark.parametrize("shift, want", [(0.0, None), (0, None), (0.1, 0.1), (3.0, 3.0), (20.0, 20.0)])
def test_a_shift_of_zero_leaves_it_to_the_model(nodes, shift, want):
    spec = nodes.load.engines.EngineSpec()
    reference = nodes.ReferenceConditioning.execute(spec, IMAGE, **SIZE).args[0][0]
    speech = nodes.audio.speech_from(sound(0.5), None, True)
    assert nodes.sample.make_stream(spec, reference, speech, 0, 1, shift, 1.0).settings.shift == want


@pytest.mark.parametrize("how", [{"size": "416"}, {"size": "custom", "width": 192, "height": 192}])
def test_a_size_that_the_model_was_not_made_for_is_refused_with_those_that_work(nodes, how):
    spec, chosen = nodes.load.engines.EngineSpec(), {"size": "auto", "width": 416, "height": 416} | how
    with pytest.raises(ValueError, match=r"is not one that nano was trained on.*128x128.*set size to auto, or allow it with any_size$"):
        nodes.ReferenceConditioning.execute(spec, IMAGE, "", **chosen)
    assert nodes.reference.video_size(nodes.load.engines.engine_for(spec).preset, (64, 64), **chosen, any_size=True)[0] >= 192


def test_the_sizes_that_the_texts_name_are_so(nodes):
    tooltip = next(part for part in nodes.Generate.define_schema().inputs if part.id == "size").fields["tooltip"]
    assert choose_size(1, 1, "416") == (544, 544) and choose_size(3, 1, "416") == (720, 416)
    assert "416 gives 544 x 544 to 720 x 416; 128 and 256 are nano's" in tooltip and BY_NAME["nano"]().made_for == ("128", "256")


def test_the_page_knows_the_sizes_of_each_model():
    script = (ROOT / "web" / "sizes.mjs").read_text()
    made_for = {name: list(preset().made_for) for name, preset in BY_NAME.items() if preset().trained}
    found = dict(re.findall(r"^  (\w+): (\[.*\]),$", script, re.MULTILINE))
    assert {name: json.loads(text) for name, text in found.items()} == made_for


def test_a_batch_of_pictures_gives_the_first_with_a_note(nodes, host):
    batch = torch.rand(4, 64, 64, 3)
    spec = nodes.load.engines.EngineSpec()
    first, alone = (nodes.ReferenceConditioning.execute(spec, x, **SIZE).args[0][0] for x in (batch, batch[:1]))
    assert first is alone and "image is a batch of 4; the first picture is used; each_picture makes a video of each" in host.lines


def test_generate_takes_two_speakers_options_and_a_crop_and_shows_it(nodes, host, monkeypatch):
    crops, save = [], nodes.host.save_picture
    monkeypatch.setattr(nodes.host, "save_picture", lambda picture: crops.append(picture.shape) or save(picture))
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    settings = {"seed": 3, "steps": 1, "shift": 0.0, "color_strength": 1.0, "loudness": True}
    options = nodes.SetEngineOptions.execute(precision="bfloat16").args[0]
    more = {"second_audio": sound(0.6), "first_mask": left, "second_mask": 1 - left, "options": options, "crop": "top"}
    out = nodes.Generate.execute("nano", IMAGE, sound(0.4), **SIZE, **settings, **more)
    (spec,) = nodes.load.engines.SLOTS
    assert spec.options.dtype == "bfloat16" and probe_audio(out.args[0][0].path).duration >= 0.6
    assert [file["filename"] for file in out.ui["livetalk_video"]] == [out.args[0][0].path.name]
    (channel,) = nodes.live.CHANNELS.values()
    assert channel.num_published > 1, "the live picture"
    assert crops == [(32, 32, 3)] and channel.crop is None, "the crop stands in the player before it, and its file goes afterwards"
    assert not host.pictures, "the player has them; a second picture on the node would be too many"
