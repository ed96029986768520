"""The reader of mouths: learned from toy films, on faces it has not seen, sharp and soft."""

from dataclasses import replace

import pytest
import torch
from drawn import SHORT, toy_clip, toy_readers, write_toy_films
from safetensors.torch import save_file

from livetalk_core.evaluate.measures import correlation
from livetalk_core.evaluate.reader import MouthReader, augment, blur, cut_boxes, load_reader, train_reader
from livetalk_core.train.films import FilmSet


@pytest.fixture(scope="module")
def reader():
    return toy_readers()[0]


def test_it_reads_faces_it_has_not_seen_and_their_frames_in_order(reader):
    for seed in (900, 901):
        clip = toy_clip(seed)
        read_KT = reader.read(clip.frames_THWC, batch=25)
        assert read_KT.shape == clip.truth_KT.shape
        assert correlation(read_KT[0], clip.truth_KT[0]) > 0.95
        assert abs(correlation(read_KT[0].flip(0), clip.truth_KT[0])) < 0.6


def test_it_reads_soft_frames_and_frames_of_another_size(reader):
    clip = toy_clip(902)
    soft = blur(clip.frames_THWC.permute(0, 3, 1, 2).float(), 1.5).permute(0, 2, 3, 1).to(torch.uint8)
    assert correlation(reader.read(soft)[0], clip.truth_KT[0]) > 0.93
    half = toy_clip(902, size=64)
    assert correlation(reader.read(half.frames_THWC)[0], half.truth_KT[0]) > 0.9


def test_it_sees_no_movement_in_a_mouth_that_is_held_shut(reader):
    clip = toy_clip(903)
    assert reader.read(clip.shut_THWC)[0].std() < 0.02 * clip.truth_KT[0].std()


def test_a_reader_comes_back_from_its_file_as_it_was():
    reader, again, said = toy_readers()
    frames = toy_clip(904).frames_THWC[:4]
    assert torch.equal(again.read(frames), reader.read(frames))
    assert len(said) == 1 + SHORT.epochs


def test_another_file_and_no_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give the folder of films"):
        load_reader(tmp_path / "none.safetensors")
    save_file({"head.weight": torch.zeros(3, 128)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not a reader; give a new file name"):
        load_reader(tmp_path / "other.safetensors")


def test_films_of_another_size_are_refused_with_the_size_that_is_needed(tmp_path):
    with pytest.raises(ValueError, match="frames of 64x64 must be 128x128"):
        train_reader(FilmSet(write_toy_films(tmp_path / "films", 1, size=64)), tmp_path / "reader.safetensors")
    assert not (tmp_path / "reader.safetensors").exists()


def test_altered_pictures_are_shifted_by_whole_pixels_and_otherwise_kept_when_nothing_else_is_asked():
    boxes = torch.randint(0, 256, (6, 72, 72, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = augment(boxes, replace(SHORT, max_blur=0.0, brightness=0.0, noise=0.0))
        changed = augment(boxes, SHORT)
    cuts = boxes.permute(0, 3, 1, 2).float() / 127.5 - 1
    for box, picture in zip(cuts, plain, strict=True):
        found = [box[:, y : y + 64, x : x + 64] for y in range(9) for x in range(9)]
        assert any(torch.allclose(cut, picture, atol=1e-5) or torch.allclose(cut.flip(2), picture, atol=1e-5) for cut in found)
    assert changed.shape == plain.shape == (6, 3, 64, 64)
    assert not torch.allclose(changed, plain, atol=0.05)


def test_the_blur_keeps_even_areas_and_sums():
    x = torch.zeros(1, 3, 33, 33)
    x[:, :, 16, 16] = 1
    soft = blur(x, 1.5)
    assert soft.sum((2, 3)).flatten().tolist() == pytest.approx([1] * 3, abs=1e-4)
    assert soft[0, 0, 16, 16] == pytest.approx(1 / (2 * torch.pi * 1.5**2), rel=0.03)
    assert torch.allclose(blur(torch.full((1, 3, 9, 9), 0.7), 2.0), torch.full((1, 3, 9, 9), 0.7), atol=1e-6)
    assert torch.equal(blur(x, 0.0), x)


def test_the_box_is_the_same_part_of_any_size():
    large = cut_boxes(toy_clip(905).frames_THWC[:1])
    small = cut_boxes(toy_clip(905, size=64).frames_THWC[:1])
    assert large.shape == small.shape == (1, 3, 64, 64)
    assert correlation(large.flatten(), small.flatten()) > 0.9
    assert MouthReader()(large).shape == (1, 3)
