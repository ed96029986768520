"""The face in a picture: found, cropped to, and put back into the whole picture."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import GRAY, HEAD, small_face, speech_like, write_wav
from PIL import Image

from livetalk_core.cli.main import main
from livetalk_core.job import Job, check_inputs, face_box
from livetalk_core.media import faces
from livetalk_core.media.faces import around_face, find_face
from livetalk_core.media.paste import LONGEST, PasteBack
from livetalk_core.media.video import probe_video, read_frames
from livetalk_core.presets import nano, tiny
from livetalk_core.provenance.credentials import read_credentials


@pytest.fixture
def wide(tmp_path) -> Path:
    small_face((641, 301)).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


@pytest.fixture
def sound(tmp_path) -> Path:
    return write_wav(tmp_path / "speech.wav", speech_like(0.4))


def run(*arguments) -> int:
    return main(["generate", *map(str, arguments), "--steps", "1"])


def test_a_face_is_found_where_it_is(wide):
    left, top, right, bottom = find_face(Image.open(wide))
    assert 430 < left < right < 540 and 90 < top < bottom < 200 and right - left == bottom - top


def test_a_picture_without_a_face_has_none():
    assert find_face(Image.new("RGB", (300, 200), (90, 90, 200))) is None


@pytest.mark.parametrize("face", [(0, 0, 50, 50), (590, 250, 640, 300), (200, 100, 260, 160), (100, 0, 400, 300)])
@pytest.mark.parametrize("shape", [(1, 1), (16, 9), (9, 16)])
def test_the_part_around_a_face_has_its_shape_and_lies_in_the_picture(face, shape):
    left, top, right, bottom = around_face((641, 301), face, 0.45, shape)
    assert 0 <= left < right <= 641 and 0 <= top < bottom <= 301
    assert (right - left) / (bottom - top) == pytest.approx(shape[0] / shape[1], rel=0.03)


def test_a_face_is_cropped_as_close_as_the_model_has_learned(wide, sound, tmp_path):
    for preset, share in ((nano(), 0.58), (tiny(), 0.45)):
        engine = SimpleNamespace(preset=preset, plan=preset.plan)
        inputs = check_inputs(Job(picture=wide, audio=(sound,), output=tmp_path / "out.mp4", crop="face"))
        found, box = find_face(inputs.picture.image), face_box(inputs, engine)
        assert (found[3] - found[1]) / (box[3] - box[1]) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("share", "cropped"), [(0.3, True), (0.48, True), (0.56, False)])
@pytest.mark.parametrize("size", ["128", "256"])
def test_nano_crops_to_a_face_of_less_than_half_the_height(sound, tmp_path, share, cropped, size):
    head = Image.open(HEAD).resize((400, 400))
    left, top, right, bottom = find_face(head)
    side = round((bottom - top) / share)
    whole = Image.new("RGB", (side, side), GRAY)
    whole.paste(head, ((side - 400) // 2, (side - 400) // 2))
    whole.save(tmp_path / "whole.png")
    job = Job(picture=tmp_path / "whole.png", audio=(sound,), output=tmp_path / "out.mp4", size=size, crop="auto")
    box = face_box(check_inputs(job), SimpleNamespace(preset=nano(), plan=nano().plan))
    assert (box is not None) == cropped


def test_without_the_detector_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    faces.cascade.cache_clear()
    try:
        assert not faces.can_find()
        with pytest.raises(ImportError, match='pip install "opencv-python-headless'):
            find_face(Image.new("RGB", (64, 64)))
    finally:
        faces.cascade.cache_clear()


def test_a_face_that_is_asked_for_without_the_detector_is_one_line_and_no_traceback(monkeypatch, wide, sound, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    faces.cascade.cache_clear()
    try:
        assert run(wide, sound, tmp_path / "out.mp4", "--model", "tiny", "--size", "48x32", "--paste-back") == 2
    finally:
        faces.cascade.cache_clear()
    assert 'livetalk: error: finding a face needs OpenCV 4, which is not installed: pip install "opencv' in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_frames_without_change_give_the_photograph_back():
    image = Image.open(HEAD).convert("RGB")
    box = around_face(image.size, (60, 60, 110, 110), 0.45)
    reference = torch.from_numpy(np.array(image.crop(box).resize((64, 64), Image.Resampling.BOX))).permute(2, 0, 1) / 127.5 - 1
    paste = PasteBack(image, box, reference)
    same = ((reference + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)[None]
    pasted = paste.frames(same)[0].int()
    assert (pasted - torch.from_numpy(np.array(image)).int()).abs().max() <= 2


def test_a_change_moves_its_part_and_nothing_else():
    image = Image.open(HEAD).convert("RGB")
    box = (40, 30, 140, 130)
    reference = torch.from_numpy(np.array(image.crop(box).resize((64, 64), Image.Resampling.BOX))).permute(2, 0, 1) / 127.5 - 1
    frame = ((reference + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).clone()
    frame[28:40, 28:40] = 255
    pasted, whole = PasteBack(image, box, reference).frames(frame[None])[0].int(), torch.from_numpy(np.array(image)).int()
    outside = torch.ones(192, 192, dtype=torch.bool)
    outside[30:130, 40:140] = False
    assert torch.equal(pasted[outside], whole[outside])
    assert pasted[30 + 50 : 30 + 56, 40 + 50 : 40 + 56].float().mean() > 235


def test_a_very_large_or_odd_picture_gets_a_size_that_a_video_can_have():
    paste = PasteBack(Image.new("RGB", (5001, 333)), (4000, 0, 4333, 333), torch.zeros(3, 16, 16))
    assert paste.size == (LONGEST, 142) and paste.frames(torch.zeros(1, 16, 16, 3, dtype=torch.uint8)).shape == (1, 142, LONGEST, 3)


def test_a_small_face_is_cropped_to_and_put_back_on_demand(wide, sound, tmp_path, capsys):
    assert run(wide, sound, tmp_path / "face.mp4", "--model", "nano") == 0
    assert "a face was found" in "".join(capsys.readouterr())
    face = probe_video(tmp_path / "face.mp4")
    assert (face.width, face.height) == (256, 256)
    assert run(wide, sound, tmp_path / "whole.mp4", "--model", "nano", "--paste-back") == 0
    whole = probe_video(tmp_path / "whole.mp4")
    assert (whole.width, whole.height, whole.frames) == (640, 300, face.frames)
    first = np.stack(list(read_frames(tmp_path / "whole.mp4")))[0].astype(int)
    assert abs(first[:, :350] - np.array([120, 130, 140])).max() < 12, "what is far from the face is the picture's own"
    pytest.importorskip("c2pa")
    assert read_credentials(tmp_path / "whole.mp4").composite and not read_credentials(tmp_path / "face.mp4").composite


def test_a_large_face_is_left_as_it_is_unless_asked_for(sound, tmp_path, capsys):
    assert run(HEAD, sound, tmp_path / "auto.mp4", "--model", "nano") == 0
    assert "a face was found" not in "".join(capsys.readouterr())
    assert run(HEAD, sound, tmp_path / "face.mp4", "--model", "nano", "--crop", "face") == 0
    assert "a face was found" in "".join(capsys.readouterr())


def test_a_face_that_is_asked_for_and_not_there_is_one_line(sound, tmp_path, portrait, capsys):
    Image.new("RGB", (200, 200), (90, 90, 200)).save(tmp_path / "sky.png")
    for given in (["--crop", "face"], ["--paste-back"]):
        assert run(tmp_path / "sky.png", sound, tmp_path / "out.mp4", "--model", "tiny", "--size", "48x32", *given) == 2
        assert "no face was found" in "".join(capsys.readouterr())
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"crop": "top", "paste_back": True}, "--crop top names another place"),
        ({"crop": "face", "masks": True}, "for one speaker without masks"),
        ({"crop": "nose"}, "must be auto, face, center, top, or X,Y"),
    ],
)
def test_crops_that_do_not_go_together_are_refused(wide, sound, tmp_path, change, message):
    job = Job(picture=wide, audio=(sound,), output=tmp_path / "out.mp4")
    masks = (wide,) if change.pop("masks", False) else ()
    with pytest.raises(ValueError, match=message):
        check_inputs(replace(job, masks=masks, **change))
