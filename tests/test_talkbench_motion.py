"""Motion of head and hands: orderings that must hold, what cannot be measured, and MediaPipe itself where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from bench_films import shown, write_film
from PIL import Image, ImageDraw, ImageFilter

from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured
from livetalk_core.evaluate.talkbench.motion import Motion, Pose, by_side, mediapipe_motion

HEAD_SHOT = Path(__file__).parent / "golden" / "face" / "head.jpg"
EYES = 20.0
RED, GREEN = (255, 0, 0), (0, 255, 0)


def film(head_T=(), hand_T=(), count: int = 50) -> np.ndarray:
    """Frames with a red square whose middle is `head_T` pixels down, and a green one `hand_T` pixels to the right; NaN hides one."""
    frames = np.zeros((count, 64, 96, 3), np.uint8)
    for t in range(count):
        if len(head_T) and not np.isnan(head_T[t]):
            frames[t, round(head_T[t]) - 4 : round(head_T[t]) + 4, 44:52] = RED
        if len(hand_T) and not np.isnan(hand_T[t]):
            frames[t, 50:58, round(hand_T[t]) - 4 : round(hand_T[t]) + 4] = GREEN
    return frames


def see(frame_HWC: np.ndarray) -> Pose:
    """A stand-in for MediaPipe that sees the squares."""
    head, hand = (np.argwhere((frame_HWC == color).all(2))[:, ::-1] for color in (RED, GREEN))
    hands = {"Left": hand.mean(0) + np.zeros((3, 1))} if len(hand) else {}
    return Pose(head_K2=head.mean(0) + np.array([[0, -5], [-3, 2], [3, 2]]) if len(head) else None, eyes=EYES, hands_K2=hands)


@contextmanager
def open_see() -> Iterator:
    yield see


def motion_of(path: Path, frames_THWC: np.ndarray) -> Measured:
    return Motion(open_see, "toy").measure(shown(write_film(path / "film.mkv", frames_THWC)))


def nod(amplitude: float, count: int = 50) -> np.ndarray:
    """A head at 28 pixels that nods once a second."""
    return 28 + np.round(amplitude * np.sin(2 * np.pi * np.arange(count) / 25))


def test_a_still_head_has_no_motion_and_one_that_nods_more_has_more(tmp_path):
    found = [motion_of(tmp_path, film(nod(amplitude))).numbers["head_motion"] for amplitude in (0, 6, 12)]
    assert found[0] == 0 < found[1] < found[2]
    assert found[2] == pytest.approx(12 / 2**0.5 / EYES, rel=0.02), "the root mean square of a sine, in distances of the eyes"


def test_a_hand_that_moves_has_more_motion_than_a_still_one_whatever_the_head_does(tmp_path):
    wave = 30 + np.round(15 * np.sin(np.arange(50) / 3))
    still, moved, nodding = (motion_of(tmp_path, film(*each)) for each in ((nod(0), 0 * wave + 30), (nod(0), wave), (nod(9), wave)))
    assert still.numbers["hand_motion"] == 0 < moved.numbers["hand_motion"]
    assert moved.numbers["head_motion"] == 0 and still.numbers["hands_seen"] == 1 and not moved.notes
    assert nodding.numbers["hand_motion"] == pytest.approx(moved.numbers["hand_motion"])


def test_drift_counts_less_than_the_same_way_to_and_fro(tmp_path):
    way, count = 24, 250
    drift, sway = 20 + np.linspace(0, way, count), 20 + way * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(count) / 25))
    found = [motion_of(tmp_path, film(each, count=count)) for each in (drift, sway)]
    assert found[0].numbers["head_motion"] < 0.6 * found[1].numbers["head_motion"]
    assert [len(each.series["head_motion"]) for each in found] == [2, 2] and found[0].window_s == 5


def test_a_video_without_hands_has_no_hand_motion_and_says_so(tmp_path):
    found = motion_of(tmp_path, film(nod(5)))
    assert "hand_motion" not in found.numbers and found.numbers["hands_seen"] == 0 and found.notes == ("no hand was seen",)


def test_frames_without_a_face_or_a_hand_are_left_out_and_noted(tmp_path):
    head, hand = nod(0), np.full(50, 30.0)
    head[10:20], hand[:25] = np.nan, np.nan
    found = motion_of(tmp_path, film(head, hand))
    assert found.numbers == {"head_motion": 0, "hand_motion": 0, "hands_seen": 0.5}
    assert found.notes == ("no face in 10 of 50 frames",)


@pytest.mark.parametrize("head, count, reason", [
    ((), 50, "no face was found in 50 frames"), ((28.0,), 1, "1 frame holds no motion"),
    ((28.0, np.nan, np.nan), 3, "a face was found in 1 of 3"),
])  # fmt: skip
def test_what_holds_no_motion_of_a_head_is_said(head, count, reason, tmp_path):
    with pytest.raises(NotMeasured, match=reason):
        motion_of(tmp_path, film(head, count=count))


def test_two_hands_of_one_side_are_two_hands():
    a, b = np.zeros((21, 2)), np.ones((21, 2))
    hands = by_side([(0.8, "Left", a), (0.9, "Left", b)])
    assert hands["Left"] is b and hands["Right"] is a


def drawn_hand(picture: Image.Image, x: float, y: float) -> None:
    """A right hand, its palm at (x, y)."""
    draw = ImageDraw.Draw(picture)

    def limb(x0: float, y0: float, x1: float, y1: float, radius: float) -> None:
        for part in np.linspace(0, 1, 30):
            at = (x + 0.6 * (x0 + part * (x1 - x0)), y + 0.6 * (y0 + part * (y1 - y0)))
            draw.ellipse([at[0] - 0.6 * radius, at[1] - 0.6 * radius, at[0] + 0.6 * radius, at[1] + 0.6 * radius], fill=(224, 172, 140))

    limb(0, 60, 0, 260, 34)
    draw.rounded_rectangle([x - 31, y - 30, x + 31, y + 48], radius=18, fill=(224, 172, 140))
    for finger, top, radius in ((-40, -130, 13), (-13, -155, 14), (14, -145, 13.5), (40, -110, 11.5), (-84, 30, 15)):
        limb(min(max(finger, -45), 45), -40 if finger > -80 else 50, 1.25 * finger, top if finger > -80 else -20, radius)


def person(head_y: int, hand_x: float | None) -> np.ndarray:
    """A photograph of a head and a drawn hand beside it."""
    picture = Image.new("RGB", (640, 480), (90, 110, 130))
    picture.paste(Image.open(HEAD_SHOT).convert("RGB").resize((300, 300)), (20, head_y))
    if hand_x is not None:
        drawn_hand(picture, hand_x, 300)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(1)))


@pytest.mark.slow
def test_mediapipe_orders_real_heads_and_drawn_hands_as_they_move(tmp_path):
    pytest.importorskip("mediapipe", reason="mediapipe 0.10.14 wants numpy below 2, so it is tested in an environment of its own")
    measure, swing = mediapipe_motion(), np.sin(2 * np.pi * np.arange(40) / 25)
    found = {}
    for name, head, hand in (("still", 0, 0), ("nods", 20, 0), ("waves", 0, 50)):
        frames = np.stack([person(90 + round(head * s), 480 + hand * s) for s in swing])
        found[name] = measure.measure(shown(write_film(tmp_path / f"{name}.mkv", frames))).numbers
    print(found)
    assert found["still"]["hands_seen"] > 0.9
    assert found["still"]["head_motion"] < 0.01 and found["nods"]["head_motion"] > 0.1 > found["waves"]["head_motion"]
    assert found["still"]["hand_motion"] < 0.05 and found["waves"]["hand_motion"] > 0.2 > found["nods"]["hand_motion"]
    alone = np.stack([person(90, None)] * 3)
    assert measure.measure(shown(write_film(tmp_path / "alone.mkv", alone))).notes == ("no hand was seen",)
    with pytest.raises(NotMeasured, match="no face was found"):
        measure.measure(shown(write_film(tmp_path / "gray.mkv", np.full((3, 120, 160, 3), 128, np.uint8))))
