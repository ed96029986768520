"""Films: drawn once, read in parts."""

import pytest
import torch
from safetensors.torch import load_file
from toys import CPU, toy_film, write_toy_films

from livetalk_core.train.draws import Draws
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import AROUND_FRAMES, TRUTH, Film, FilmSet, film_clips
from livetalk_core.train.synthetic import CAPTION, draw_film, talker_clips


@pytest.fixture
def films(tmp_path) -> FilmSet:
    return FilmSet(write_toy_films(tmp_path / "films"))


@pytest.fixture
def numbered(tmp_path) -> Film:
    """A film whose pixels tell frame, row and column."""
    places = torch.stack(torch.meshgrid(torch.arange(21), torch.arange(48), torch.arange(48), indexing="ij"), dim=-1)
    write_tensors(toy_film() | {"frames": places.to(torch.uint8)}, tmp_path / "numbered.safetensors")
    return Film(tmp_path / "numbered.safetensors")


def test_a_cut_is_a_piece_of_the_film_with_its_piece_of_the_mouth_mask(numbered):
    for i in range(8):
        clip = numbered.cut(Draws.of("cut", i), 5, 16)
        first, top, left = clip.frames_CTHW[:, 0, 0, 0].tolist()
        piece_THWC = numbered.read("frames")[first : first + 5, top : top + 16, left : left + 16]
        assert clip.frames_CTHW.shape == (3, 5, 16, 16) and torch.equal(clip.frames_CTHW.permute(1, 2, 3, 0), piece_THWC)
        assert torch.equal(clip.mouth_HW, numbered.read("mouth").bool()[top : top + 16, left : left + 16])


def test_a_cut_is_the_same_for_the_same_draws_and_another_for_others(films):
    first, again, *others = (films[0].cut(Draws.of("cut", name), 5, 16).frames_CTHW for name in "aabcd")
    assert torch.equal(first, again)
    assert not any(torch.equal(first, other) for other in others)


def test_every_place_can_be_cut_and_half_of_the_cuts_hold_the_middle_of_the_mouth(numbered):
    cuts = [numbered.cut(Draws.of("share", i), 17, 16) for i in range(300)]
    firsts, tops, lefts = zip(*(cut.frames_CTHW[:, 0, 0, 0].tolist() for cut in cuts), strict=True)
    assert set(firsts) == {0, 1, 2, 3, 4}
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 32, 0, 32)
    row, column = numbered.read("mouth").nonzero().float().mean(0).round().int().tolist()
    held = sum(top <= row < top + 16 and left <= column < left + 16 for top, left in zip(tops, lefts, strict=True))
    assert 0.5 <= held / 300 < 0.8, "chance alone would give a quarter"


def test_the_whole_film_can_be_cut(films):
    clip = films[0].cut(Draws.of("whole"), 21, 48)
    assert torch.equal(clip.frames_CTHW.permute(1, 2, 3, 0), films[0].read("frames"))
    assert torch.equal(clip.mouth_HW, films[0].read("mouth").bool())


@pytest.mark.parametrize("frames, size", [(25, 16), (5, 64)])
def test_more_than_a_film_has_is_refused_with_what_it_has(films, frames, size):
    with pytest.raises(
        ValueError, match=f"toy-0.safetensors has 21 frames of 48x48, too few for crops of {frames} frames of {size}x{size}"
    ):
        films[0].cut(Draws.of("more"), frames, size)


def test_a_folder_without_films_is_refused_with_its_name(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"^{folder} holds no films .*; draw some with: livetalk train nano$"):
            FilmSet(folder)


def test_a_folders_films_are_in_the_order_of_their_names_and_one_bucket(films):
    assert [films[i].path.stem for i in range(len(films))] == ["toy-0", "toy-1", "toy-2", "toy-3"] and films.buckets == ["all"] * 4
    assert films[2].to(CPU) == films[2]


def test_films_become_clips_for_the_shards(films):
    clips = list(film_clips(films, "A drawing.", 8))
    assert [clip.key for clip in clips] == ["toy-0", "toy-1", "toy-2", "toy-3"]
    film, clip = toy_film(1), clips[1]
    assert torch.equal(clip.frames_THWC, film["frames"]) and torch.equal(clip.reference_HWC, film["reference"])
    assert torch.equal((clip.sound_N * 32767).round().to(torch.int16), film["sound"]) and clip.sound_N.abs().max() <= 1
    assert (clip.lead, clip.caption, clip.mouth_HW.dtype) == (8, "A drawing.", torch.bool)


def test_a_drawn_film_is_the_drawn_clip_with_the_truth_about_its_mouth(tmp_path):
    write_tensors(draw_film(5, 9, 48), tmp_path / "talker-train-5.safetensors")
    (drawn,), (stored,) = talker_clips([5], 9, 48), film_clips(FilmSet(tmp_path), CAPTION, AROUND_FRAMES)
    assert stored.key == drawn.key and stored.lead == drawn.lead and stored.caption == drawn.caption
    for name in ("frames_THWC", "reference_HWC", "mouth_HW"):
        assert torch.equal(vars(stored)[name], vars(drawn)[name]), name
    assert len(stored.sound_N) == (9 + 2 * AROUND_FRAMES) * 640
    assert torch.allclose(stored.sound_N, drawn.sound_N.clamp(-1, 1), atol=1e-4)
    truth = load_file(tmp_path / "talker-train-5.safetensors")["truth"]
    assert truth.shape == (len(TRUTH), 9) and truth.std() > 0
