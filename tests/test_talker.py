"""The synthetic talker: its drawing, its true mouth against its sound, and its splits."""

import ctypes.util
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from livetalk_core.talker.espeak import Utterance, speak, to_phones
from livetalk_core.talker.identity import CLOTHES, HAIR_STYLES, SKINS, STYLES, Identity, Mouth, Pose
from livetalk_core.talker.motion import Motion
from livetalk_core.talker.sentences import HELD_OUT_VOICES, SENTENCES, SPEAKERS, TRAIN_VOICES
from livetalk_core.talker.talk import write_texts
from livetalk_core.talker.viseme import FIELDS, SAMPLE_RATE, lay_targets, low_pass, shapes_of, to_16k, track_mouth

pytest.importorskip("skia", reason="skia-python (the train extra) draws the faces", exc_type=ImportError)

from livetalk_core.talker.clip import HELD_OUT_IDENTITIES, TRAIN_IDENTITIES, make_clip, write_script  # noqa: E402
from livetalk_core.talker.face import draw  # noqa: E402
from livetalk_core.talker.mouth import measure  # noqa: E402
from livetalk_core.talker.samples import PORTRAIT  # noqa: E402

needs_espeak = pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="espeak-ng is not installed")
ASSETS = Path(__file__).resolve().parents[1] / "livetalk_core" / "assets"
PLAIN = replace(Identity.sample(1, "human"), skin=SKINS[1], beard="none", glasses="none", hair_style="bald", zoom=1.0)
BY_STYLE = {"human": PLAIN, **{style: replace(Identity.sample(2, style), zoom=1.0) for style in ("cat", "robot")}}


def mouth_box(frame_HWC):
    """The part of a straight pose's picture around the mouth."""
    side = len(frame_HWC)
    return frame_HWC[int(0.56 * side) : int(0.76 * side), int(0.38 * side) : int(0.62 * side)].astype(int)


def inside_area(identity, mouth):
    """Pixels of the mouth box that are cavity, tongue or teeth: far from what the same pixels are with closed lips."""
    shut, now = (mouth_box(draw(identity, Pose(), m, 256)) for m in (Mouth(), mouth))
    return int((np.abs(now - shut).max(-1) > 60).sum())


def envelope(samples_N):
    """Root mean square per frame of the band 200-3500 Hz, lightly smoothed."""
    spectrum = np.fft.rfft(samples_N)
    hz = np.fft.rfftfreq(len(samples_N), 1 / SAMPLE_RATE)
    spectrum[(hz < 200) | (hz > 3500)] = 0
    band = np.fft.irfft(spectrum, len(samples_N))
    frames = len(band) // 640
    loud = np.sqrt((band[: frames * 640].reshape(frames, 640) ** 2).mean(1))
    return np.convolve(loud, [0.25, 0.5, 0.25], "same")


def correlation_by_lag(opening_T, loud_T, reach=5):
    length = min(len(opening_T), len(loud_T))
    loud = loud_T[reach : length - reach]
    return [np.corrcoef(opening_T[reach + lag : length - reach + lag], loud)[0, 1] for lag in range(-reach, reach + 1)]


def say(text, voice):
    speech = speak([Utterance(text=text, voice=voice)])[0]
    return speech, track_mouth(speech), envelope(to_16k(speech.samples_N, speech.rate))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [64, 97, 256, 1024])
def test_a_picture_has_the_asked_size(style, size):
    frame = draw(Identity.sample(3, style), Pose(), Mouth(), size)
    assert frame.shape == (size, size, 3) and frame.dtype == np.uint8


def test_small_and_large_pictures_show_the_same():
    large = draw(PLAIN, Pose(), Mouth(opening=0.6), 512).astype(float)
    small = draw(PLAIN, Pose(), Mouth(opening=0.6), 128).astype(float)
    averaged = large.reshape(128, 4, 128, 4, 3).mean((1, 3))
    other = draw(replace(PLAIN, skin=SKINS[6]), Pose(), Mouth(opening=0.6), 128)
    assert np.abs(averaged - small).mean() < 2.5
    assert np.abs(averaged - other).mean() > 10


def test_the_same_seed_draws_the_same_picture_in_any_order():
    first = draw(Identity.sample(11), Pose(yaw=0.3), Mouth(opening=0.4), 96)
    for seed in range(20, 26):
        draw(Identity.sample(seed), Pose(), Mouth(), 96)
    assert np.array_equal(first, draw(Identity.sample(11), Pose(yaw=0.3), Mouth(opening=0.4), 96))


def test_seeds_are_different_people():
    faces = [draw(Identity.sample(seed), Pose(), Mouth(), 64).astype(int) for seed in range(16)]
    gaps = [np.abs(a - b).mean() for i, a in enumerate(faces) for b in faces[:i]]
    assert min(gaps) > 5


def test_seeds_reach_every_style_hair_and_garment():
    people = [Identity.sample(seed) for seed in range(600)]
    assert {p.style for p in people} == set(STYLES)
    assert {p.hair_style for p in people} == set(HAIR_STYLES)
    assert {p.clothes for p in people} == set(CLOTHES)
    assert {p.skin for p in people if p.style == "human"} == set(SKINS)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", [Mouth(), Mouth(width=0.7), Mouth(rounding=0.8), Mouth(width=0.3, tongue=1)])
def test_the_inside_of_the_mouth_grows_with_opening(style, shape):
    areas = [inside_area(BY_STYLE[style], replace(shape, opening=o)) for o in (0.15, 0.3, 0.5, 0.7, 0.85, 1.0)]
    assert all(small < large for small, large in zip(areas[:-1], areas[1:], strict=True)), areas


@pytest.mark.parametrize("style", STYLES)
def test_pressed_lips_show_no_inside_whatever_the_opening(style):
    pressed = inside_area(BY_STYLE[style], Mouth(opening=0.9, closure=1.0))
    assert pressed * 5 < inside_area(BY_STYLE[style], Mouth(opening=0.9))


def test_lips_spread_with_width_and_narrow_with_rounding():
    halves = [measure(PLAIN, m, 0.0).half for m in (Mouth(rounding=1), Mouth(width=-1), Mouth(), Mouth(width=1))]
    assert halves == sorted(halves) and halves[0] < 0.75 * halves[-1]


def test_teeth_show_white_for_f_and_not_in_a_round_mouth():
    def white(mouth):
        return int((mouth_box(draw(PLAIN, Pose(), mouth, 512)).min(-1) > 200).sum())

    assert white(Mouth(opening=0.2, teeth=1.0)) > white(Mouth()) + 100
    assert white(Mouth(opening=0.2, rounding=1.0)) < white(Mouth()) + 20


def test_a_blink_changes_the_eyes_and_not_the_mouth():
    open_eyes, shut = (draw(PLAIN, Pose(blink=b), Mouth(opening=0.5), 256).astype(int) for b in (0.0, 1.0))
    assert np.abs(open_eyes - shut)[90:140, 60:200].max() > 100
    assert np.abs(mouth_box(open_eyes) - mouth_box(shut)).max() == 0


def test_a_size_out_of_range_is_refused_with_the_range():
    with pytest.raises(ValueError, match="size=8 must be 16 to 4096"):
        draw(PLAIN, Pose(), Mouth(), 8)


def test_an_unknown_style_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="style='dog' must be one of human, cat, robot"):
        Identity.sample(0, "dog")


def test_a_head_moves_smoothly_and_blinks_now_and_then():
    poses = [Motion.sample(5, 60.0).pose(k / 25) for k in range(1500)]
    assert max(abs(a.x - b.x) for a, b in zip(poses[:-1], poses[1:], strict=True)) < 0.004
    assert 8 < sum(a.blink < 0.5 <= b.blink for a, b in zip(poses[:-1], poses[1:], strict=True)) < 40
    assert np.std([p.yaw for p in poses]) > 0.02


def test_the_lip_filter_has_no_delay_and_keeps_a_held_shape():
    pulse = np.zeros((81, 1))
    pulse[40] = 1
    answer = low_pass(pulse, 7.0)[:, 0]
    assert np.allclose(answer, answer[::-1]) and answer.argmax() == 40
    assert np.allclose(low_pass(np.full((50, 2), 0.3), 7.0), 0.3)


def test_resampling_keeps_a_tone_where_it_was():
    seconds = 1.0
    tone = np.sin(2 * np.pi * 440 * np.arange(int(22050 * seconds)) / 22050)
    expected = np.sin(2 * np.pi * 440 * np.arange(int(16000 * seconds)) / 16000)
    assert np.abs(to_16k(tone.astype(np.float32), 22050)[800:-800] - expected[800:-800]).max() < 0.01


def test_language_marks_are_no_sounds_and_the_last_phone_ends_with_the_sound():
    phones = to_phones([("a", 0), ("(en)", 100), ("m", 200), ("", 300)], 441, 22050)
    assert [p.ipa for p in phones] == ["a", "m", ""]
    assert phones[0].end == phones[1].start and phones[-1].end == 0.02


def test_a_voiceless_stop_shuts_the_lips_before_it_bursts():
    phones = to_phones([("a", 0), ("p", 4000), ("a", 5000), ("", 9000)], 10000, 10000)
    closure_G = lay_targets(phones, 1.0)[:, FIELDS.index("closure")]
    assert closure_G[75] == 1 and closure_G[60] == 0 and closure_G[120] == 0


def test_a_speech_sound_without_a_lip_shape_is_refused_by_name():
    with pytest.raises(ValueError, match="'Ω' has a letter without a lip shape"):
        shapes_of("Ω")


@needs_espeak
@pytest.mark.parametrize("language, voice", TRAIN_VOICES[::7] + HELD_OUT_VOICES)
def test_every_voice_speaks_and_each_of_its_sounds_has_a_lip_shape(language, voice):
    for speech in speak([Utterance(text=text, voice=voice) for text in SENTENCES[language]]):
        assert 1.5 < len(speech.samples_N) / speech.rate < 10
        assert all(shapes_of(phone.ipa) is not None for phone in speech.phones)
        assert len(track_mouth(speech)) > 25


@needs_espeak
def test_a_language_is_spoken_and_not_spelled_in_english():
    for language, (voice, *_) in SPEAKERS.items():
        speech = speak([Utterance(text=SENTENCES[language][0], voice=voice)])[0]
        assert len(speech.phones) / (len(speech.samples_N) / speech.rate) > 7


@needs_espeak
@pytest.mark.parametrize("language, voice", [("en", "en-us"), ("zh", "cmn-latn-pinyin"), ("fr", "fr+m2"), ("de", "de"), ("ja", "ja+f1")])
def test_the_true_mouth_opens_in_step_with_the_sound(language, voice):
    speech, track, loud = say(" ".join(SENTENCES[language][:3]), voice)
    by_lag = correlation_by_lag(track.opening_T, loud)
    assert by_lag[5] > 0.6
    assert abs(int(np.argmax(by_lag)) - 5) <= 1


@needs_espeak
def test_the_mouth_of_another_sentence_is_out_of_step():
    said = [say(text, "en-us") for text in SENTENCES["en"]]
    same = [correlation_by_lag(track.opening_T, loud)[5] for _, track, loud in said]
    wrong = [correlation_by_lag(said[i - 1][1].opening_T, said[i][2])[5] for i in range(len(said))]
    assert np.mean(wrong) < 0.3 < 0.65 < np.mean(same)


@needs_espeak
def test_lips_are_shut_on_each_b_m_and_p():
    speech, track, _ = say("A papa, a mama, a baby.", "en-us")
    for phone in speech.phones:
        if phone.ipa and phone.ipa[0] in "mbp":
            lead = 0.055 if phone.ipa[0] == "p" else 0.0
            first, last = int((phone.start - lead) * 25), int(phone.end * 25)
            assert track.closure_T[first : last + 1].max() > 0.6, phone
            assert track.opening_T[first : last + 1].min() < 0.15, phone


@needs_espeak
def test_the_same_words_give_the_same_samples():
    first, second = (speak([Utterance(text="Please say it again.", voice="en-us")])[0] for _ in range(2))
    assert np.array_equal(first.samples_N, second.samples_N) and first.phones == second.phones


@needs_espeak
def test_an_unknown_voice_is_refused_by_name():
    with pytest.raises(ValueError, match="voice='martian' is not a voice of espeak-ng"):
        speak([Utterance(text="hello", voice="martian")])


@needs_espeak
def test_a_clip_has_640_samples_a_frame_and_is_its_seeds_own():
    clip, again, other = (make_clip(seed, 1.2, 64) for seed in (4, 4, 5))
    assert clip.frames_THWC.shape == (30, 64, 64, 3) and clip.samples_N.shape == (30 * 640,)
    assert len(clip.truth) == len(clip.poses) == 30
    assert clip.samples_N.dtype == np.float32 and 0.05 < np.abs(clip.samples_N).max() < 1
    assert np.array_equal(clip.frames_THWC, again.frames_THWC) and np.array_equal(clip.samples_N, again.samples_N)
    assert not np.array_equal(clip.frames_THWC, other.frames_THWC)


@needs_espeak
def test_the_reference_is_the_same_person_at_another_moment():
    clip = make_clip(6, 1.0, 64)
    gaps = np.abs(clip.frames_THWC.astype(int) - clip.reference_HWC.astype(int)).mean((1, 2, 3))
    stranger = make_clip(7, 0.2, 64).reference_HWC.astype(int)
    assert 0 < gaps.min() < np.abs(clip.frames_THWC[0] - stranger).mean()


@needs_espeak
def test_held_out_people_voices_and_sentences_are_never_trained_on():
    train, held_out = ([write_script(seed, 1.0, split) for seed in range(12)] for split in ("train", "heldout"))
    assert not {s.identity for s in train} & {s.identity for s in held_out}
    assert {s.voice for s in held_out} <= {voice for _, voice in HELD_OUT_VOICES}
    assert not {s.voice for s in train} & {s.voice for s in held_out}


def test_the_splits_share_nothing():
    assert not set(TRAIN_IDENTITIES) & set(HELD_OUT_IDENTITIES)
    assert not set(TRAIN_VOICES) & set(HELD_OUT_VOICES)
    assert all(len(texts) >= 2 and len(set(texts)) == len(texts) for texts in SENTENCES.values())


def test_training_mixes_words_and_held_out_sentences_stay_whole():
    rng = np.random.default_rng(0)
    train, held_out = (write_texts(rng, "en", split, 40) for split in ("train", "heldout"))
    assert set(held_out) == set(SENTENCES["en"][-1:])
    whole = [text for text in train if text in SENTENCES["en"]]
    assert 4 < len(whole) < 22 and SENTENCES["en"][-1] not in whole
    known = {word.strip(",.?") for text in SENTENCES["en"][:-1] for word in text.split()}
    assert all(word.strip(",.?") in known for text in train for word in text.split())
    assert set(write_texts(rng, "ja", "train", 9)) <= set(SENTENCES["ja"][:-1])


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="split='test' must be train or heldout"):
        write_script(0, 1.0, "test")


def test_a_clip_without_length_is_refused():
    with pytest.raises(ValueError, match="seconds=0 must be 0.04"):
        write_script(0, 0, "train")


def test_the_shipped_drawing_is_what_the_renderer_draws():
    shipped = np.asarray(Image.open(ASSETS / "drawn.png").convert("RGB")).astype(int)
    drawn = draw(PORTRAIT, Pose(smile=0.6, brow=0.15), Mouth(), 1024)
    assert shipped.shape == drawn.shape
    assert np.abs(shipped - drawn).mean() < 1.0


def test_the_shipped_speech_is_about_a_minute_of_mono():
    with av.open(str(ASSETS / "speech.flac")) as container:
        stream = container.streams.audio[0]
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(stream)])
        assert stream.rate == 22050 and stream.layout.name == "mono"
    assert 45 < len(samples) / 22050 < 75 and np.abs(samples).max() > 3000
