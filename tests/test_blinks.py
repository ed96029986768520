"""Blinks: when they come, and how a chunk's condition shows them."""

import pytest
import torch
from toys import CPU

from livetalk_core.plan import StreamPlan
from livetalk_core.presets import nano
from livetalk_core.stream.blinks import EVERY_S, lids_after, lids_at, with_blinks, with_lids
from livetalk_core.talker.heads import movement
from livetalk_core.types import Reference

PLAN = StreamPlan(width=32, height=32, latent_channels=6, temporal_stride=4, spatial_stride=8, patch_size=2)


@pytest.fixture
def reference() -> Reference:
    cond = torch.zeros(10, 9, 4, 4)
    cond[:4, 0] = 1
    cond[4:] = 0.5
    none = torch.zeros(1, 1, device=CPU)
    return Reference(text_LD=none, image_LD=none, cond_CTHW=cond, first_CTHW=cond[4:, :1], pixels_CHW=torch.zeros(3, 32, 32))


def lids_of(reference: Reference) -> list[float]:
    """The lids of frames 1 to 32 as the condition shows them, after a check that they are the same everywhere."""
    mask = reference.cond_CTHW[:4, 1:]
    assert (mask == mask[:, :, :1, :1]).all()
    return mask[:, :, 0, 0].T.flatten().tolist()


def test_a_minute_has_fifteen_blinks_that_shut_the_eyes_and_last_a_third_of_a_second():
    lids = [lids_at(frame / 25, seed=3) for frame in range(1500)]
    begins = [k for k in range(1, 1500) if lids[k] > 0 and lids[k - 1] == 0]
    assert len(begins) in (14, 15, 16) and len({b - a for a, b in zip(begins, begins[1:], strict=False)}) > 3, "never in step"
    assert max(lids) > 0.95
    assert all(sum(lid > 0 for lid in lids[k : k + 25]) in (7, 8) for k in begins if k < 1470)


def test_blinks_depend_on_the_seed_alone():
    assert [lids_at(t / 25, 1) for t in range(200)] == [lids_at(t / 25, 1) for t in range(200)]
    assert [lids_at(t / 25, 1) for t in range(200)] != [lids_at(t / 25, 2) for t in range(200)]


def test_a_blink_is_the_one_of_the_films():
    assert [lids_after(k / 100) for k in range(40)] == pytest.approx([movement.lids_after(k / 100) for k in range(40)])


def test_the_condition_shows_each_frame_its_lids_and_keeps_the_rest(reference):
    shown = with_lids(reference, torch.linspace(0, 1, 33))
    assert lids_of(shown) == pytest.approx([k / 32 for k in range(1, 33)])
    assert torch.equal(shown.cond_CTHW[4:], reference.cond_CTHW[4:]) and (shown.cond_CTHW[:4, 0] == 1).all()
    assert (reference.cond_CTHW[:4, 1:] == 0).all(), "the stream's own reference stays"


def test_open_eyes_are_the_condition_that_every_model_knows(reference):
    assert torch.equal(with_lids(reference, torch.zeros(33)).cond_CTHW, reference.cond_CTHW)


def test_chunks_agree_about_the_frames_that_they_share(reference):
    """The last five frames of a chunk are the first five of the next one, and frame 28 c - 5 + f is shown at that time / 25."""
    chunks = [lids_of(with_blinks(reference, index, PLAN, seed=3)) for index in range(8)]
    for before, after in zip(chunks, chunks[1:], strict=False):
        assert before[-4:] == after[:4]
    for index in (1, 5):
        times = [(28 * index - 5 + f) / 25 for f in range(1, 33)]
        assert chunks[index] == pytest.approx([lids_at(time, 3) for time in times])
    assert sum(map(sum, chunks)) > 4, f"about two blinks in {8 * 28 / 25 / EVERY_S:.1f} times {EVERY_S} s"


def test_the_recipe_trains_a_model_that_blinks_and_its_config_says_so():
    from livetalk_core.train.export import config_of

    assert nano().blinks and config_of(nano())["blinks"] is True
