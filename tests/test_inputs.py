"""Files and choices as people give them: pipes, tracks, channels, masks, crops, sizes, and outputs that are links or taken."""

import io
import os
import stat
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from made import HANG_S, speech_like, write_wav
from PIL import Image

from livetalk_core.cli.main import main
from livetalk_core.cli.say import say
from livetalk_core.engine.files import read_json
from livetalk_core.generate import Job, Report, check_inputs, check_room, generate
from livetalk_core.job import read_speakers
from livetalk_core.media.image import crop_cover, crop_note, load_picture, parse_focus
from livetalk_core.media.target import Target, part_name
from livetalk_core.media.video import VideoWriter, probe_video
from livetalk_core.presets import livetalk_14b, nano, tiny
from livetalk_core.types import StreamSettings

ROOT = Path(__file__).parent.parent
SMALL = ("--model", "tiny", "--size", "48x32", "--steps", "1")


def run(*arguments) -> int:
    return main(["generate", *map(str, arguments), *SMALL])


def job(portrait, *sounds, output, **how) -> Job:
    return Job(picture=portrait, audio=sounds, output=output, size="48x32", settings=StreamSettings(steps=1), **how)


def mask(path, first, last, size=(48, 32)):
    picture = np.zeros((size[1], size[0]), np.uint8)
    picture[:, first:last] = 255
    Image.fromarray(picture).save(path)
    return path


# Sound


@pytest.mark.skipif(os.name != "posix", reason="FIFOs are POSIX")
def test_sound_and_picture_from_pipes_are_read(tmp_path, portrait, speech, capsys):
    data = {"sound": speech.read_bytes(), "picture": portrait.read_bytes()}
    for name in data:
        os.mkfifo(tmp_path / name)
        threading.Thread(target=lambda name=name: (tmp_path / name).write_bytes(data[name]), daemon=True).start()
    assert run(tmp_path / "picture", tmp_path / "sound", tmp_path / "out.mp4", "--no-credentials") == 0
    assert probe_video(tmp_path / "out.mp4").frames == 63
    assert run(portrait, speech, tmp_path / "plain.mp4", "--no-credentials") == 0
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()


def test_two_channels_of_one_file_are_two_speakers(tmp_path, portrait):
    both = np.stack([speech_like(1.0, seed=1), speech_like(1.0, seed=2)], axis=1)
    sound = write_wav(tmp_path / "both.wav", both)
    masks = (mask(tmp_path / "a.png", 0, 20), mask(tmp_path / "b.png", 28, 48))
    inputs = check_inputs(job(portrait, sound, output=tmp_path / "out.mp4", split_channels=True, masks=masks))
    voices = torch.cat(list(read_speakers(inputs.job)), dim=1)
    assert inputs.job.people == 2 and np.abs(voices.T.numpy() - both).max() < 1e-4
    assert run(portrait, sound, tmp_path / "out.mp4", "--split-channels", "--masks", *masks) == 0
    assert probe_video(tmp_path / "out.mp4").audio_channels == 2


def test_a_track_is_chosen_on_the_command_line_and_told(tmp_path, portrait, speech, capsys):
    assert run(portrait, speech, tmp_path / "out.mp4", "--audio-track", "2") == 2
    assert "audio track 2 is not there; it has 1: pcm_s16le 1 channel(s)" in capsys.readouterr().err
    assert run(portrait, speech, tmp_path / "out.mp4", "--audio-track", "1") == 0


def test_the_whole_of_long_sound_is_refused_before_work_where_its_memory_is_not_free():
    hour = Fraction(3600)
    with pytest.raises(ValueError, match=r"--whole-audio of 60 minutes needs about 59\.0 GB of memory and 16\.0 GB are free; leave it out"):
        check_room(livetalk_14b(), hour, 1, 16 * 10**9)
    with pytest.raises(ValueError, match=r"needs about 4\.3 GB"):
        check_room(nano(), hour, 1, 4 * 10**9)
    check_room(livetalk_14b(), Fraction(60), 2, 16 * 10**9)
    check_room(nano(), hour, 1, 8 * 10**9)


def test_a_job_that_hears_everything_at_once_asks_for_room_first(engine, tmp_path, portrait, speech, monkeypatch):
    monkeypatch.setattr("livetalk_core.generate.free_bytes", lambda device: 10)
    monkeypatch.setattr(engine, "reference", lambda *how: pytest.fail("work has begun"))
    asked = Job(picture=portrait, audio=(speech,), output=tmp_path / "out.mp4", size="48x32", settings=StreamSettings(whole_audio=True))
    with pytest.raises(ValueError, match="--whole-audio of 0 minutes needs about"):
        generate(engine, check_inputs(asked))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.wav"]


# Speakers and masks


@pytest.mark.parametrize(
    "options, parts",
    [
        (["--masks", "a.png", "b.png", "c.png"], ["3 speakers are too many; the model knows 2 in one picture"]),
        (["--masks", "a.png", "b.png"], ["1 voice and 2 masks do not fit"]),
        (["--split-channels"], ["two speakers need one mask each"]),
        (["--split-channels", "--second-audio", "x.wav"], ["--split-channels takes two speakers from one file"]),
        (["--split-channels", "--masks", "a.png", "b.png"], ["has 1 channel(s); --split-channels needs 2"]),
        (["--crop", "left"], ["crop 'left' must be auto, face, center, top, or X,Y"]),
        (["--crop", "0.5,1.2"], ["crop '0.5,1.2' must be"]),
        (["--crop", "nan,0"], ["crop 'nan,0' must be"]),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(tmp_path, portrait, speech, monkeypatch, capsys, options, parts):
    monkeypatch.chdir(tmp_path)
    for name, edges in (("a.png", (0, 20)), ("b.png", (28, 48)), ("c.png", (20, 28))):
        mask(tmp_path / name, *edges)
    assert run(portrait, speech, tmp_path / "out.mp4", *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in parts), error
    assert not (tmp_path / "out.mp4").exists()


def test_a_sound_in_the_pictures_place_is_called_one(tmp_path, portrait, speech, capsys):
    assert run(speech, portrait, tmp_path / "out.mp4") == 2
    assert f"{speech}: is a sound or video file, not a picture; name the picture first, then the sound\n" in capsys.readouterr().err
    words = tmp_path / "words.txt"
    words.write_text("neither")
    assert run(words, speech, tmp_path / "out.mp4") == 2
    assert capsys.readouterr().err.endswith("words.txt: is not a picture that can be read; save it as PNG or JPEG\n")


def test_one_speaker_with_a_mask_talks_and_the_rest_hears_silence(engine, tmp_path, portrait, speech, monkeypatch):
    heard = []
    open_stream = engine.open
    monkeypatch.setattr(
        engine, "open", lambda reference, *rest, **how: heard.append((reference, how)) or open_stream(reference, *rest, **how)
    )
    one = job(portrait, speech, output=tmp_path / "out.mp4", masks=(mask(tmp_path / "a.png", 0, 20),))
    assert generate(engine, check_inputs(one)) == 63
    ((reference, how),) = heard
    masks_KHW = reference.speaker_masks_KHW
    assert how["people"] == 2 and torch.equal(masks_KHW[0] + masks_KHW[1], torch.ones(32, 48)) and not masks_KHW[2].any()
    assert masks_KHW[0, :, :20].all() and not masks_KHW[0, :, 20:].any()


# Pictures


def heif(picture: Image.Image, **how) -> bytes:
    import pillow_heif

    file = io.BytesIO()
    pillow_heif.register_heif_opener()
    picture.save(file, "HEIF", quality=90, **how)
    return file.getvalue()


def avif(picture: Image.Image, **how) -> bytes:
    file = io.BytesIO()
    picture.save(file, "AVIF", quality=90, **how)
    return file.getvalue()


@pytest.mark.parametrize("encode", [heif, avif])
@pytest.mark.parametrize("name", ["a.heic", "a.avif", "a.jpg", "a.png", "a"])
def test_heic_and_avif_are_read_upright_whatever_they_are_called(tmp_path, encode, name):
    picture = Image.new("RGB", (96, 64), "blue")
    picture.paste("red", (0, 0, 48, 64))
    exif = Image.Exif()
    exif[274] = 6  # the camera was held on its side: a quarter turn clockwise makes it upright
    for how, size, red in (({}, (96, 64), (10, 32)), ({"exif": exif}, (64, 96), (32, 10))):
        (tmp_path / name).write_bytes(encode(picture, **how))
        image = load_picture(tmp_path / name).image
        assert image.size == size
        assert image.getpixel(red)[0] > 200 > 60 > image.getpixel(red)[2]


def test_a_torn_heic_picture_is_one_line(tmp_path):
    whole = heif(Image.effect_noise((200, 200), 50).convert("RGB"))
    for size in (100, len(whole) // 2):
        (tmp_path / "a.heic").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a.heic: (is not a picture that can be read|is cut short or broken)"):
            load_picture(tmp_path / "a.heic")


def test_the_crop_is_the_published_one_unless_it_is_moved():
    tall = Image.fromarray(np.repeat(np.arange(200, dtype=np.uint8)[:, None, None], 64, axis=1).repeat(3, axis=2))
    center = crop_cover(tall, 64, 64)
    assert torch.equal(center, crop_cover(tall, 64, 64, focus=parse_focus("center")))
    assert torch.equal(center, crop_cover(tall, 64, 64, focus=parse_focus("0.5,0.5")))
    first = lambda text: round((float(crop_cover(tall, 64, 64, focus=parse_focus(text))[0, 0, 0]) + 1) / 2 * 255)  # noqa: E731
    assert (first("top"), first("0.5,0.3"), first("0.2, 1"), first("CENTER")) == (0, 28, 136, 68)


def test_what_is_cut_is_told_when_it_is_much():
    assert crop_note(100, 100, 64, 64) is None and crop_note(104, 100, 64, 64) is None
    assert crop_note(100, 200, 64, 64) == "of 100x200 pixels, 25 % at the top and 25 % at the bottom are cut to fill 64x64"
    assert crop_note(100, 200, 64, 64, parse_focus("top")) == "of 100x200 pixels, 50 % at the bottom are cut to fill 64x64"
    assert crop_note(400, 100, 64, 64) == "of 400x100 pixels, 38 % at the left and 38 % at the right are cut to fill 64x64"


def test_the_note_and_the_crop_reach_the_command_line(tmp_path, speech, capsys):
    Image.effect_noise((64, 300), 80).convert("RGB").save(tmp_path / "tall.png")
    frames = []
    for crop in ("center", "top"):
        assert run(tmp_path / "tall.png", speech, tmp_path / f"{crop}.mp4", "--crop", crop) == 0
        frames.append((tmp_path / f"{crop}.mp4").read_bytes())
    out = capsys.readouterr().out
    assert "picture: of 64x300 pixels, 43 % at the top and 43 % at the bottom are cut to fill 48x32; --crop top" in out
    assert frames[0] != frames[1]


# Sizes


@pytest.mark.parametrize("size", ["416x416", "192x192", "64x64", "128x112", "720x416"])
def test_nano_refuses_sizes_at_which_its_face_does_not_talk(tmp_path, portrait, speech, capsys, size):
    assert main(["generate", str(portrait), str(speech), str(tmp_path / "out.mp4"), "--size", size]) == 2
    error = capsys.readouterr().err
    assert f"size {size} is not one that nano was trained on" in error and error.count("\n") == 1
    assert "use 128x128, 144x112, 160x96, 112x144, 96x160, 256x256 and 4 more up to 192x320, or insist with --any-size" in error
    assert not (tmp_path / "out.mp4").exists() and list(tmp_path.glob(".*")) == []


def test_a_bucket_of_another_model_is_refused_too_and_may_be_insisted_on(tmp_path, portrait, speech, capsys):
    assert main(["generate", str(portrait), str(speech), str(tmp_path / "out.mp4"), "--size", "416"]) == 2
    assert "is not one that nano was trained on" in capsys.readouterr().err
    short = write_wav(tmp_path / "short.wav", speech_like(0.1))
    assert main(["generate", str(portrait), str(short), str(tmp_path / "out.mp4"), "--size", "64x48", "--any-size"]) == 0
    assert probe_video(tmp_path / "out.mp4").width == 64


def test_the_large_model_takes_what_lies_between_its_buckets():
    for size in ((720, 416), (416, 720), (544, 544), (832, 480), (480, 832), (1280, 704), (960, 960)):
        livetalk_14b().check_size(*size, "")
    for size in ((128, 128), (416, 416), (1920, 1088)):
        with pytest.raises(ValueError, match=r"720x416, .* and 41 more up to 512x1920, or choose another"):
            livetalk_14b().check_size(*size, "or choose another")
    tiny().check_size(16, 48, "")


# Outputs


def frames_of(value: int, count: int = 5) -> np.ndarray:
    return np.full((count, 32, 32, 3), value, np.uint8)


def write(path, value=50, **how) -> VideoWriter:
    writer = VideoWriter(path, width=32, height=32, **how)
    writer.write(frames_of(value))
    return writer


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, there):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "film.mp4", tmp_path / "out.mp4"
    if there:
        target.write_bytes(b"older")
    link.symlink_to(Path("real") / "film.mp4")
    assert write(link, overwrite=True).close() == link
    assert link.is_symlink() and os.readlink(link) == str(Path("real") / "film.mp4")
    assert probe_video(target).frames == 5 and names_in(tmp_path) == ["out.mp4", "real"] and names_in(tmp_path / "real") == ["film.mp4"]


def test_a_link_into_no_folder_is_refused(tmp_path):
    (tmp_path / "out.mp4").symlink_to(tmp_path / "none" / "film.mp4")
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist; create it first"):
        write(tmp_path / "out.mp4")


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_replaced_file_keeps_its_mode_and_a_new_one_has_the_usual(tmp_path):
    (tmp_path / "old.mp4").write_bytes(b"older")
    (tmp_path / "old.mp4").chmod(0o640)
    write(tmp_path / "old.mp4", overwrite=True).close()
    assert stat.S_IMODE((tmp_path / "old.mp4").stat().st_mode) == 0o640
    (tmp_path / "usual").touch()
    write(tmp_path / "new.mp4").close()
    assert (tmp_path / "new.mp4").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["x" * 251 + ".mp4", "ü" * 125 + ".mp4", "a b'\"$%d#?*.MP4", "-out.mp4", ".hidden.mp4", "a\nb.mp4"])
def test_every_name_that_the_file_system_takes_works(tmp_path, name):
    write(tmp_path / name).close()
    assert names_in(tmp_path) == [name] and probe_video(tmp_path / name).frames == 5
    assert len(os.fsencode(part_name(name, "0" * 8) + ".resume.new")) <= 255


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text are Linux's")
def test_a_name_that_is_no_text_works(tmp_path, portrait, speech):
    name = os.fsdecode(b"f\xffilm.mp4")
    sound = tmp_path / os.fsdecode(b"s\xfe.wav")
    sound.write_bytes(speech.read_bytes())
    assert run(portrait, sound, tmp_path / name) == 0
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("overwrite", [True, False])
def test_two_runs_of_one_output_both_keep_their_films(tmp_path, overwrite):
    if overwrite:
        (tmp_path / "out.mp4").write_bytes(b"older")
    one, other = (write(tmp_path / "out.mp4", value, overwrite=overwrite) for value in (30, 200))
    assert one.close() == tmp_path / "out.mp4" and other.close() == tmp_path / "out-2.mp4"
    from livetalk_core.media.video import read_frames

    assert next(read_frames(tmp_path / "out.mp4")).mean() < 100 < next(read_frames(tmp_path / "out-2.mp4")).mean()
    assert names_in(tmp_path) == ["out-2.mp4", "out.mp4"]


def test_the_run_that_comes_second_says_where_its_film_is(engine, tmp_path, portrait, speech):
    notes, saved = [], []

    def meddle(chunk, total):
        (tmp_path / "out.mp4").write_bytes(b"made by another run")

    report = Report(chunk=meddle, note=notes.append, saved=lambda path, frames: saved.append((path, frames)))
    generate(engine, check_inputs(job(portrait, speech, output=tmp_path / "out.mp4")), report=report)
    assert saved == [(tmp_path / "out-2.mp4", 63)] and "so this video is" in notes[-1]
    assert (tmp_path / "out.mp4").read_bytes() == b"made by another run"


@pytest.mark.skipif(os.name != "posix", reason="a folder with an open file in it cannot be removed elsewhere")
def test_a_folder_that_vanishes_is_made_again(tmp_path):
    import shutil

    (tmp_path / "films").mkdir()
    writer = write(tmp_path / "films" / "out.mp4")
    shutil.rmtree(tmp_path / "films")
    assert writer.close() == tmp_path / "films" / "out.mp4"
    assert probe_video(tmp_path / "films" / "out.mp4").frames == 5 and names_in(tmp_path / "films") == ["out.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="a folder with an open file in it cannot be removed elsewhere")
def test_a_folder_that_cannot_be_made_again_loses_nothing(tmp_path, monkeypatch):
    import shutil
    import tempfile

    (tmp_path / "films").mkdir()
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spare"))
    writer = write(tmp_path / "films" / "out.mp4")
    shutil.rmtree(tmp_path / "films")
    (tmp_path / "films").write_text("a file in its place")
    with pytest.raises(OSError, match=r"out.mp4: cannot be written .*; the video is .*spare.livetalk-.*\.mp4") as error:
        writer.close()
    assert "\n" not in str(error.value)
    (kept,) = (tmp_path / "spare").iterdir()
    assert probe_video(kept).frames == 5


def test_an_error_midway_keeps_what_was_made_and_an_older_film(engine, tmp_path, portrait, speech):
    (tmp_path / "out.mp4").write_bytes(b"older")
    saved = []

    def fail(chunk, total):
        raise RuntimeError("out of memory")

    report = Report(chunk=fail, saved=lambda path, frames: saved.append((path, frames)))
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(engine, check_inputs(job(portrait, speech, output=tmp_path / "out.mp4", overwrite=True)), report=report)
    assert saved == [(tmp_path / "out-2.mp4", 4)] and probe_video(tmp_path / "out-2.mp4").frames == 4
    assert (tmp_path / "out.mp4").read_bytes() == b"older" and list(tmp_path.glob(".*")) == []


def test_only_the_content_may_be_written_where_the_folder_is_closed(tmp_path, monkeypatch):
    """A file that another system has put in place: it can be written, its folder cannot."""
    (tmp_path / "films").mkdir()
    (tmp_path / "spare").mkdir()
    path = tmp_path / "films" / "out.mp4"
    path.write_bytes(b"older")
    may = os.access
    monkeypatch.setattr(os, "access", lambda place, how: Path(place) != tmp_path / "films" and may(place, how))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    inode = path.stat().st_ino
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (_ for _ in ()).throw(PermissionError(13, "no")) if Path(b) == path else real(a, b))
    write(path, overwrite=True).close()
    assert path.stat().st_ino == inode and probe_video(path).frames == 5
    assert names_in(tmp_path / "spare") == [] and names_in(tmp_path / "films") == ["out.mp4"]
    assert Target(path, True).folder == tmp_path / "spare"


# Users, consoles and locales


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_of_any_unicode_encoding_is_json(tmp_path, encoding):
    path = tmp_path / "config.json"
    path.write_bytes('{"preset": "nano", "who": "Zoë"}'.encode(encoding))
    assert read_json(path) == {"preset": "nano", "who": "Zoë"}


def test_no_file_is_read_or_written_in_the_locales_encoding():
    import re

    for folder in ("livetalk_core", "nodes"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text(encoding="utf-8").splitlines():
                if re.search(r"\.(read_text|write_text)\(|\.open\(\"[wa]\"", line) and "/proc/" not in line:
                    assert "encoding=" in line or "statm" in line or "info." in line, f"{path}: {line.strip()}"


def test_lines_that_a_console_cannot_show_are_spelled_out():
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("Zoë: 63 frames █", narrow)
    assert narrow.buffer.getvalue() == b"Zo\\xeb: 63 frames \\u2588\n"
    narrow.close()
    say("nobody reads this", narrow)


def test_compiled_forms_are_kept_somewhere_for_a_user_without_name_or_home(tmp_path, monkeypatch):
    from livetalk_core.engine import compile as compiling

    def nameless(*rest):
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    compiling.keep_compiled_forms()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="other consoles are for other systems")
@pytest.mark.slow
@pytest.mark.parametrize(("locale", "utf8"), [("C", "0"), ("de_DE.ISO-8859-1", "0"), ("C.UTF-8", "0"), ("C", "1")])
def test_a_user_without_a_home_gets_a_film_in_any_locale(tmp_path, portrait, speech, locale, utf8):
    output = tmp_path / "Zoë.mp4"
    command = [sys.executable, "-X", f"utf8={utf8}", "-m", "livetalk_core.cli", "generate", portrait, speech, output, *SMALL]
    setting = {"PATH": os.environ["PATH"], "LC_ALL": locale, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "PYTHONIOENCODING": ""}
    done = subprocess.run(list(map(os.fsencode, command)), env=setting, capture_output=True, cwd=ROOT, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert probe_video(output).frames == 63 and b"63 frames" in done.stdout


def test_a_closed_console_does_not_cost_the_film(tmp_path, portrait, speech):
    command = [sys.executable, "-m", "livetalk_core.cli", "generate", portrait, speech, tmp_path / "out.mp4", *SMALL]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    process.stderr.close()
    process.wait(timeout=HANG_S)
    assert probe_video(tmp_path / "out.mp4").frames == 63
