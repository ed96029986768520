"""What bad input gets: exit status 2, one line with the value, the rule and the way out, nothing written, nothing lost."""

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made import HANG_S, speech_like, write_wav
from PIL import Image

from livetalk_core.cli.main import main
from livetalk_core.media.video import probe_video, read_frames

SMALL = ("--model", "tiny", "--size", "48x32", "--steps", "1")


@pytest.fixture
def place(tmp_path, portrait, speech):
    """A folder with a good picture and a good sound, an output that must survive, and a command that fails."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "talk.mp4").write_bytes(b"precious")

    class Place:
        folder, output = tmp_path, tmp_path / "out" / "talk.mp4"
        picture, sound = portrait, speech

        def file(self, name, data=b""):
            (tmp_path / name).write_bytes(data)
            return tmp_path / name

        def fails(self, capsys, *parts, picture=None, sound=None, output=None, options=()):
            output = output or tmp_path / "out" / "new.mp4"
            before = sorted(tmp_path.rglob("*"))
            arguments = ["generate", picture or portrait, sound or speech, output, *SMALL, *options]
            assert main(list(map(str, arguments))) == 2
            error = capsys.readouterr().err
            assert error.startswith("livetalk: error: ") and error.count("\n") == 1 and "Traceback" not in error
            assert all(part in error for part in parts), error
            assert sorted(tmp_path.rglob("*")) == before, "nothing half-written stays"
            assert self.output.read_bytes() == b"precious"

    return Place()


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_sound_that_is_not_there_or_not_sound(place, capsys):
    place.fails(capsys, "missing.wav", sound=place.folder / "missing.wav")
    place.fails(capsys, "empty.wav", sound=place.file("empty.wav"))
    place.fails(capsys, "text.wav", sound=place.file("text.wav", b"these are words, not sound\n" * 50))
    place.fails(capsys, "out", sound=place.folder / "out")
    place.fails(capsys, "portrait.png", sound=place.picture)


def test_sound_without_samples(place, capsys):
    place.fails(capsys, "none.wav", sound=write_wav(place.folder / "none.wav", np.zeros(0, np.float32)))


def test_sound_with_samples_that_are_not_numbers(place, capsys):
    samples = speech_like(1.0)
    samples[8000] = np.nan
    data = samples.astype("<f4").tobytes()
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32, b"data", len(data))
    place.fails(capsys, "nan.wav", "0.5", sound=place.file("nan.wav", header + data))


def test_sound_that_was_cut_short(place, capsys):
    whole = place.sound.read_bytes()
    place.fails(capsys, "cut.wav", sound=place.file("cut.wav", whole[: len(whole) // 2]))
    import av

    mp3 = place.folder / "whole.mp3"
    with av.open(str(mp3), "w") as file:
        stream = file.add_stream("libmp3lame", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray((speech_like(3.0) * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        file.mux([*stream.encode(frame), *stream.encode(None)])
    place.fails(capsys, "cut.mp3", sound=place.file("cut.mp3", mp3.read_bytes()[: mp3.stat().st_size // 2]))


def test_pictures_that_are_not_there_or_not_pictures(place, capsys):
    place.fails(capsys, "missing.png", picture=place.folder / "missing.png")
    place.fails(capsys, "empty.png", picture=place.file("empty.png"))
    place.fails(capsys, "text.png", picture=place.file("text.png", b"no picture"))
    place.fails(capsys, "speech.wav", picture=place.sound)
    whole = save(Image.effect_noise((200, 200), 50), place.folder / "whole.jpg").read_bytes()
    place.fails(capsys, "cut.jpg", picture=place.file("cut.jpg", whole[: len(whole) // 2]))


def test_a_picture_of_one_pixel(place, capsys):
    place.fails(capsys, "1x1", picture=save(Image.new("RGB", (1, 1)), place.folder / "dot.png"))


@pytest.mark.parametrize(
    "options, parts",
    [
        (["--size", "50x32"], ["width=50 must be a multiple of 16; nearest: 48 or 64"]),
        (["--size", "48x0"], ["height=0 must be a multiple of 16"]),
        (["--size", "wide"], ["size 'wide' must be WIDTHxHEIGHT"]),
        (["--steps", "0"], ["steps=0 must be 1 or more"]),
        (["--steps", "-4"], ["steps=-4"]),
        (["--seed", "-1"], ["seed=-1"]),
        (["--shift", "0"], ["shift=0.0 must be above 0"]),
        (["--color-strength", "2"], ["color_strength=2.0 must be 0"]),
        (["--model", "/nowhere"], ["model folder /nowhere does not exist", "leave --model out"]),
        (["--model", "livetalk_14b"], ["no weights of 'livetalk_14b'"]),
        (["--vae", "/nowhere.pth"], ["missing dit"]),
        (["--device", "gpu"], ["device 'gpu' must be"]),
        (["--device", "cuda:99"], ["device 'cuda:99' is not there"]),
        (["--attention", "magic"], ["attention kernel 'magic' must be one of"]),
        (["--second-audio", "x.wav"], ["two speakers need one mask each"]),
    ],
)
def test_numbers_and_names_out_of_range(place, capsys, options, parts):
    place.fails(capsys, *parts, options=options)


@pytest.mark.parametrize("arguments", [["generate", "--steps", "many"], ["dance"], ["generate", "a", "b", "c", "d"], []])
def test_words_that_are_no_arguments_get_one_line_too(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_masks_that_do_not_fit_the_picture(place, capsys):
    masks = [save(Image.new("L", (48, 40), color), place.folder / f"{color}.png") for color in ("white", "black")]
    place.fails(capsys, "white.png", "(48, 40)", "(48, 32)", options=["--second-audio", place.sound, "--masks", *masks])
    masks = [save(Image.new("L", (48, 32), color), place.folder / f"{color}.png") for color in ("white", "black")]
    place.fails(capsys, "black.png is black", options=["--second-audio", place.sound, "--masks", *masks])


def test_outputs_that_cannot_be_written(place, capsys):
    place.fails(capsys, "talk.mp4", "--overwrite", output=place.output)
    place.fails(capsys, "nowhere", output=place.folder / "nowhere" / "x.mp4")
    place.fails(capsys, "out", output=place.folder / "out")
    place.fails(capsys, ".avi", output=place.folder / "x.avi")


def test_a_bad_sound_never_touches_the_output_it_may_overwrite(place, capsys):
    place.fails(capsys, "empty.wav", sound=place.file("empty.wav"), output=place.output, options=["--overwrite"])


def test_a_disk_that_fills_up(place):
    """Files may grow to 20 kB: the error names the file and the one with what was made before, and the older output stays."""
    long = write_wav(place.folder / "long.wav", speech_like(20.0, 44100), 44100)
    command = [sys.executable, "-m", "livetalk_core.cli", "generate", place.picture, long, place.output, "--overwrite", *SMALL]

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, preexec_fn=small_files, timeout=HANG_S, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("livetalk: error: ") and "talk.mp4" in last and "Traceback" not in done.stderr
    assert place.output.read_bytes() == b"precious" and sorted(os.listdir(place.output.parent)) == ["talk-2.mp4", "talk.mp4"]
    frames = probe_video(place.output.with_name("talk-2.mp4")).frames
    assert frames > 0 and f"talk-2.mp4 has the first {frames} frames" in last


def gradient(mode):
    """Left half dark, right half light, so that orientation and scaling show."""
    values = np.zeros((64, 96), np.uint16 if mode == "I;16" else np.uint8)
    values[:, 48:] = 60000 if mode == "I;16" else 255
    return Image.fromarray(values) if mode in ("I;16", "L") else Image.fromarray(values).convert(mode)


def first_frame(place, picture, *options):
    """Made with the colors off tiny's mind: what is compared is the picture as it was taken in."""
    from livetalk_core.media.image import crop_cover, load_picture

    loaded = load_picture(picture)
    out = place.folder / f"{picture.stem}.mp4"
    assert main(["generate", str(picture), str(place.sound), str(out), *SMALL, *options]) == 0
    assert probe_video(out).frames == 63 and next(read_frames(out)).shape == (32, 48, 3)
    return crop_cover(loaded.image, 48, 32), loaded.notes


@pytest.mark.parametrize("mode, suffix", [("L", "png"), ("P", "png"), ("I;16", "png"), ("CMYK", "jpg"), ("LA", "png"), ("1", "png")])
def test_unusual_pictures_work_and_look_right(place, mode, suffix):
    path = save(gradient(mode), place.folder / f"odd.{suffix}")
    pixels_CHW, _ = first_frame(place, path)
    assert pixels_CHW[:, :, :20].max() < -0.8 and pixels_CHW[:, :, -20:].min() > 0.6


def test_a_rotated_photo_is_upright_in_the_video(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(gradient("L").convert("RGB"), place.folder / "turned.jpg", exif=exif)
    pixels_CHW, _ = first_frame(place, path)
    assert pixels_CHW[:, :8].max() < -0.5 and pixels_CHW[:, -8:].min() > 0.5, "the dark left half is now on top"


def test_transparency_and_animation_are_said_aloud(place, capsys):
    clear = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    pixels_CHW, notes = first_frame(place, save(clear, place.folder / "clear.png"))
    assert pixels_CHW.min() > 0.99 and "white" in " ".join(notes)
    frames = [Image.new("RGB", (96, 64), color) for color in ("red", "blue")]
    _, notes = first_frame(place, save(frames[0], place.folder / "moving.gif", save_all=True, append_images=frames[1:]))
    assert "first" in " ".join(notes)
    out = capsys.readouterr().out
    assert out.count("picture: ") == 2


def test_a_picture_20000_pixels_wide_works(place):
    first_frame(place, save(Image.new("RGB", (20000, 300), "white"), place.folder / "wide.png"))
