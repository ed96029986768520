"""Photographs that talk: what the mesh does to them, with a rendered face that was fitted once."""

import ctypes.util
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from livetalk_core.talker.identity import Mouth
from livetalk_core.talker.photo.draw import Inside, Stage
from livetalk_core.talker.photo.expression import FULL_GAP, Expressions, Look
from livetalk_core.talker.photo.fit import fit_path, pictures_of
from livetalk_core.talker.photo.fitted import Portrait, background_of, cut_square, mirrored, read_portrait
from livetalk_core.talker.photo.mesh import (
    BETWEEN,
    CHIN,
    CORNERS,
    LIPS_INNER,
    LIPS_OUTER,
    LOWER_INNER,
    LOWER_LIDS,
    OVAL,
    POINTS,
    TOP,
    UPPER_INNER,
    UPPER_LIDS,
    HeadFrame,
    other_side,
)  # fmt: skip
from livetalk_core.talker.photo.warp import Turn

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("cv2", "scipy")), reason="OpenCV and SciPy (the train extra) warp the pictures"
)
needs_espeak = pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="espeak-ng is not installed")
FOLDER = Path(__file__).parent / "golden" / "face"
OPEN = Mouth(opening=0.8)
LIDS = 140
"""The darkest channel of the rendered head's lids stays below this; that of the whites of its eyes is mostly above."""


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    return read_portrait(FOLDER / "head.jpg", fit_path(FOLDER / "head.jpg"))


@pytest.fixture(scope="module")
def face(portrait) -> Expressions:
    frame = HeadFrame.of(portrait.points_N3[:468])
    return Expressions.of(frame.into(portrait.points_N3[:468]))


@pytest.fixture(scope="module")
def stage(portrait):
    return Stage(cut_square(portrait, 128, 0.5, (0.5, 0.46)), Inside(teeth=(220, 215, 200), gum=(50, 20, 20), tongue=(150, 80, 80)))


def gap(points_N3: np.ndarray) -> float:
    return float((points_N3[list(LOWER_INNER), 1] - points_N3[list(UPPER_INNER), 1]).max())


def test_the_head_s_frame_turns_pixels_into_face_heights_and_back(portrait):
    frame = HeadFrame.of(portrait.points_N3)
    inside = frame.into(portrait.points_N3)
    assert np.abs(frame.out_of(inside) - portrait.points_N3).max() < 1e-2
    assert np.linalg.norm(inside[CHIN] - inside[TOP]) == pytest.approx(1, abs=1e-3) and inside[CHIN, 1] > 0 > inside[TOP, 1]


def test_lips_at_rest_are_closed_and_open_as_far_as_the_truth_says(face):
    assert abs(gap(face.at(Mouth(), Look()))) < 1e-6
    for opening in (0.2, 0.5, 1.0):
        assert gap(face.at(Mouth(opening=opening), Look())) == pytest.approx(FULL_GAP * opening, rel=0.06)
    assert abs(gap(face.at(Mouth(opening=0.7, closure=1.0), Look()))) < 1e-6, "p, b and m shut the lips"


def test_spread_and_rounded_lips_are_wider_and_narrower(face):
    width = lambda mouth: np.ptp(face.at(mouth, Look())[list(CORNERS), 0])  # noqa: E731
    assert width(Mouth(width=1.0)) > width(Mouth()) + 0.02 > width(Mouth(rounding=1.0)) + 0.05


@pytest.mark.parametrize("mouth", [Mouth(), OPEN, Mouth(opening=0.5, rounding=1.0), Mouth(opening=0.4, width=1.0, teeth=1.0)])
def test_what_is_inside_the_lips_stays_between_their_edges(face, mouth):
    points_N3 = face.at(mouth, Look())
    rings = [LIPS_OUTER, *(ring for _, ring in BETWEEN), LIPS_INNER]
    heights = np.stack([points_N3[list(ring), 1] for ring in rings])
    middle = [4, 5, 6]
    assert (np.diff(heights[:, middle], axis=0) > -0.002).all(), "the upper lip"
    assert (np.diff(heights[:, [11 + k for k in middle]], axis=0) < 0.002).all(), "the lower lip"


def test_bared_teeth_are_gone_when_the_lips_close(portrait):
    near, grin = cut_square(portrait, 256, 0.7, (0.5, 0.46)), Mouth(opening=0.35, width=0.8, teeth=1.0)
    stage = Stage(near, Inside(teeth=(220, 215, 200), gum=(50, 20, 20), tongue=(150, 80, 80)))
    points_N3 = near.points_N3.copy()
    points_N3[:468, :2] = stage.puppet.posed(grin, Look(), Turn())[:468]
    off = 0.006 * stage.puppet.frame.height  # a mesh that is found on a photograph lies on the teeth by about so much
    points_N3[list(UPPER_INNER), 1] += off
    points_N3[list(LOWER_INNER), 1] -= off
    grinning = replace(near, pixels_HWC=stage.draw(grin, Look(), Turn(), finer=1).astype(np.float32), points_N3=points_N3)
    low, high = (edge(points_N3[list(LIPS_OUTER), :2], axis=0).astype(int) for edge in (np.min, np.max))
    bright = lambda picture: int(picture[low[1] : high[1] + 2, low[0] : high[0]].min(2).max())  # noqa: E731
    other = Stage(grinning, stage.inside)
    assert bright(other.untouched(1)) > 190, "teeth show in the picture itself"
    assert bright(other.draw(Mouth(), Look(), Turn(), finer=1)) < bright(stage.draw(Mouth(), Look(), Turn(), finer=1)) + 8


def eyes_of_stage(stage, pixels: np.ndarray) -> np.ndarray:
    """[K, 3] the pixels within the open eyes of a picture drawn in full size."""
    import cv2

    points_N2, inside = stage.puppet.posed(Mouth(), Look(), Turn()), np.zeros(pixels.shape[:2], np.uint8)
    for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
        cv2.fillPoly(inside, [points_N2[[*upper, *reversed(lower)]].round().astype(np.int32)], 1)
    return pixels[inside > 0].astype(float)


def test_a_shut_eye_is_skin_with_a_line_of_lashes(portrait):
    near = cut_square(portrait, 256, 0.7, (0.5, 0.46))
    stage = Stage(near, Inside(teeth=(220, 215, 200), gum=(50, 20, 20), tongue=(150, 80, 80)))
    wide, half, shut = (stage.draw(Mouth(), Look(blink=blink), Turn(), finer=1) for blink in (0.0, 0.5, 1.0))
    whites = [(eyes_of_stage(stage, picture).min(1) > LIDS).sum() for picture in (wide, half, shut)]
    assert whites[0] > whites[1] > whites[2] == 0
    assert eyes_of_stage(stage, shut).std() < 0.75 * eyes_of_stage(stage, wide).std(), "neither iris nor corner shines through"
    change = np.abs(shut.astype(int) - wide).max(2)
    mouth, eyes = near.points_N3[list(LIPS_OUTER), 1].min(), near.points_N3[[*UPPER_LIDS[0], *UPPER_LIDS[1]], 1].min()
    assert change[int(mouth) :].max() == 0 and change[: int(eyes - 0.12 * stage.puppet.frame.height)].max() == 0


def test_only_the_face_changes_when_it_speaks(stage):
    closed, opened = (stage.draw(mouth, Look(), Turn()).astype(int) for mouth in (Mouth(), OPEN))
    change = np.abs(closed - opened).max(2)
    mouth = stage.puppet.posed(OPEN, Look(), Turn())[list(UPPER_INNER)].mean(0) / 2
    x, y = mouth.round().astype(int)
    assert change[y : y + 5, x - 3 : x + 4].mean() > 25
    assert change[:12].max() <= 2 and change[:, :6].max() <= 2, "hair and background stay"


def test_a_picture_at_rest_is_the_picture(stage, portrait):
    """The warp at rest differs from the original only where open lips were closed."""
    change = np.abs(stage.draw(Mouth(), Look(), Turn()).astype(int) - stage.untouched().astype(int)).max(2)
    assert np.median(change) == 0 and (change > 12).mean() < 0.02


def test_the_mirror_exchanges_the_sides(portrait):
    seen = mirrored(portrait, other_side(portrait.points_N3))
    assert seen.points_N3.shape == (POINTS, 3)
    assert seen.points_N3[CORNERS[0], 0] < seen.points_N3[CORNERS[1], 0], "left stays left"
    assert np.array_equal(seen.pixels_HWC[:, ::-1], portrait.pixels_HWC)


def test_a_tilted_cut_turns_the_picture_and_the_mesh_alike(portrait):
    upright, tilted = (cut_square(portrait, 256, 0.5, (0.5, 0.46), tilt) for tilt in (0.0, 20.0))
    down = [square.points_N3[CHIN, :2] - square.points_N3[TOP, :2] for square in (upright, tilted)]
    angles = [np.degrees(np.arctan2(y, x)) for x, y in down]
    assert angles[1] - angles[0] == pytest.approx(20, abs=0.01) and np.linalg.norm(down[0]) == pytest.approx(np.linalg.norm(down[1]))
    skin = [point for point in range(0, 468, 5) if point not in OVAL]
    colors = [square.pixels_HWC[tuple(square.points_N3[skin, :2].round().astype(int).T[::-1])] for square in (upright, tilted)]
    assert np.abs(colors[1] - colors[0]).mean() < 10 < np.abs(colors[1] - colors[0][::-1]).mean(), (
        "each point stays on its spot of the face"
    )


def test_pictures_of_training_films_are_tilted_either_way():
    from livetalk_core.talker.photo.clip import TILT, choose_portrait

    def roll(seed: int) -> float:
        x, y = HeadFrame.of(choose_portrait(np.random.default_rng(seed), [FOLDER / "head.jpg"], 64).points_N3).axes_33[0][:2]
        return float(np.degrees(np.arctan2(y, x)))

    rolls = [roll(seed) for seed in range(40)]
    assert 0.6 * TILT < np.std(rolls) < 1.5 * TILT and min(rolls) < -0.5 * TILT and max(rolls) > 0.5 * TILT


def test_training_films_have_their_own_background_or_cloths_or_soft_shapes(portrait, monkeypatch):
    from livetalk_core.talker.photo import change

    monkeypatch.setattr(change, "cloths", lambda rng, side: np.full((side, side, 3), 1000.0))
    near = cut_square(portrait, 64, 0.5, (0.5, 0.46))
    made = [change.some_background(np.random.default_rng(seed), near) for seed in range(80)]
    assert all(each.shape == (64, 64, 3) and each.dtype == np.float32 and each.min() >= 0 and each.max() <= 255 for each in made)
    assert np.mean([np.array_equal(each, background_of(near)) for each in made]) == pytest.approx(change.OWN_BACKGROUND, abs=0.15)
    assert np.mean([(each == 255).all() for each in made]) == pytest.approx(change.CLOTHS, abs=0.15)


def test_cloths_have_an_edge_from_top_to_bottom_and_soft_shapes_seldom():
    from livetalk_core.talker.photo.change import cloths, soft_shapes

    def with_edge(make) -> float:
        grays = [make(np.random.default_rng(seed), 64).mean(2) for seed in range(60)]
        return np.mean([np.abs(np.diff(gray, axis=1)).max(1).min() > 15 for gray in grays])

    assert with_edge(cloths) > 0.6 and with_edge(soft_shapes) < 0.4


@needs_espeak
def test_a_film_is_the_same_for_the_same_seed_and_has_what_training_reads():
    from livetalk_core.train.films import TRUTH
    from livetalk_core.train.photos import draw_photo_film

    first, again, other = (draw_photo_film(seed, 9, 64, pictures_of(FOLDER)) for seed in (1, 1, 2))
    assert all(first[name].equal(again[name]) for name in first) and not first["frames"].equal(other["frames"])
    assert first["frames"].shape == (9, 64, 64, 3) and first["reference"].shape == (64, 64, 3)
    assert first["truth"].shape == (len(TRUTH), 9) and first["lids"].shape == (9,) and first["sound"].shape == (25 * 640,)
    assert 0.01 < first["mouth"].float().mean() < 0.4


def test_pictures_without_a_face_are_one_line(tmp_path):
    from livetalk_core.talker.photo.clip import choose_portrait

    (tmp_path / "fits").mkdir()
    (tmp_path / "a.png").touch()
    np.savez(tmp_path / "fits" / "a.npz", points=np.zeros((0, 3)), mask=np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="had no face"):
        choose_portrait(np.random.default_rng(0), pictures_of(tmp_path), 64)


@needs_espeak
def test_masks_are_the_eyes_of_people_who_blink_or_the_mouth():
    from livetalk_core.talker.photo.clip import make_photo_clip

    seen = set()
    for seed in range(16):
        clip = make_photo_clip(seed, 0.6, 64, [FOLDER / "head.jpg"])
        rows = np.flatnonzero(clip.mask_HW.any(1))
        eyes = rows.mean() < 32
        assert not eyes or clip.lids_T.max() > 0.5
        seen.add((bool(clip.lids_T.max() > 0.5), bool(eyes)))
    assert seen == {(False, False), (True, False), (True, True)}


def test_a_blend_has_the_first_picture_around_and_the_mean_face_inside(portrait):
    from livetalk_core.talker.photo.blend import blend

    square = cut_square(portrait, 256, 0.5, (0.5, 0.49))
    first = square.pixels_HWC.round().clip(0, 255)
    alone = blend([square, square]).astype(int)
    assert np.abs(alone - first).mean() < 1.5, "the mean of one face is that face"
    wide = replace(square, points_N3=square.points_N3.copy())
    wide.points_N3[list(LOWER_LIDS[0]), 1] += 6  # this face has larger eyes
    other = blend([square, wide, wide]).astype(int)
    x, y = square.points_N3[list(LOWER_LIDS[0]), :2].mean(0).astype(int)
    assert np.abs(other - alone)[y - 6 : y + 8, x - 8 : x + 8].mean() > 4
    outline = square.points_N3[list(OVAL), 1]
    assert np.abs(other - first)[: int(outline.min()) - 8].max() <= 2 and np.abs(other - first)[int(outline.max()) + 24 :].max() <= 2


def test_pictures_without_a_face_cannot_be_blended(tmp_path):
    from livetalk_core.talker.photo.blend import main

    bare = tmp_path / "bare.png"
    Image.new("RGB", (64, 64)).save(bare)
    fit_path(bare).parent.mkdir()
    np.savez(fit_path(bare), points=np.zeros((0, 3), np.float32), mask=np.zeros((64, 64), np.uint8))
    with pytest.raises(ValueError, match="bare.png: no face was found"):
        main(tmp_path / "out.jpg", FOLDER / "head.jpg", bare)
    with pytest.raises(ValueError, match="at least one for the face"):
        main(tmp_path / "out.jpg", FOLDER / "head.jpg")
