"""Blinks: when they come, and how a chunk's condition shows them."""

from dataclasses import replace

import pytest
import torch
from toys import CPU, toy_film, toy_plan, toy_sft, toy_tensors, write_toy_films

from livetalk_core.plan import StreamPlan
from livetalk_core.presets import nano
from livetalk_core.stream.blinks import EVERY_S, STRENGTH, lids_after, lids_at, strengthened, with_blinks, with_lids
from livetalk_core.talker.heads import movement
from livetalk_core.train.draws import Draws
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import FilmSet, film_clips
from livetalk_core.train.sample import decode_tensors
from livetalk_core.train.sft import noise_sample
from livetalk_core.types import Reference, StreamSettings

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


def test_a_minute_has_eighteen_blinks_that_shut_the_eyes_and_last_two_fifths_of_a_second():
    lids = [lids_at(frame / 25, seed=3) for frame in range(1500)]
    begins = [k for k in range(1, 1500) if lids[k] > 0 and lids[k - 1] == 0]
    assert len(begins) in (17, 18, 19) and len({b - a for a, b in zip(begins, begins[1:], strict=False)}) > 3, "never in step"
    assert max(lids) > 0.95
    assert all(sum(lid > 0 for lid in lids[k : k + 25]) in (9, 10) for k in begins if k < 1470)


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
        lids_T = torch.tensor([lids_at((28 * index - 5 + f) / 25, 3) for f in range(33)])
        assert chunks[index] == pytest.approx(strengthened(lids_T, 4)[1:].tolist())
    assert sum(map(sum, chunks)) > 4, f"about two blinks in {8 * 28 / 25 / EVERY_S:.1f} times {EVERY_S} s"


def test_a_stream_shows_lids_more_strongly_but_falling_half_as_steeply_within_a_latent_frame():
    shown = strengthened(torch.tensor([0.2, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 4)
    assert (shown / STRENGTH).tolist() == pytest.approx([0.2, 0.25, 0.25, 0.75, 0.75, 1, 1, 1, 1])


def test_the_recipe_trains_a_model_that_blinks_and_its_config_says_so():
    from livetalk_core.train.export import config_of

    assert nano().blinks and config_of(nano())["blinks"] is True


def test_training_shows_each_chunk_its_own_lids():
    """A film's lids pass through shards into the condition of the chunk that is trained on."""
    lids = torch.linspace(0, 1, 61)
    sample = decode_tensors("toy", toy_tensors(chunks=2) | {"lids": lids}, toy_plan())
    for index in range(2):
        assert lids_of(sample.shown(index)) == pytest.approx(lids[28 * index + 1 : 28 * index + 33].tolist())
    row = noise_sample(replace(sample, latents_KCTHW=sample.latents_KCTHW[:1]), Draws.of("lids"), toy_sft(), torch.zeros(1, 8))
    assert lids_of(row.reference) == pytest.approx(lids[1:33].tolist())


def test_latent_frames_with_shut_eyes_count_more_if_the_recipe_says_so():
    lids = torch.zeros(61)
    lids[6], lids[33 + 3] = 1.0, 0.5  # in latent frame 2 of the first chunk, and in 2 of the second, which begins at frame 28
    sample = decode_tensors("toy", toy_tensors(chunks=2) | {"lids": lids}, toy_plan())
    assert sample.shut(0).tolist() == [0, 1, 0, 0, 0, 0, 0, 0] and sample.shut(1).tolist() == [0, 0.5, 0, 0, 0, 0, 0, 0]
    first = replace(sample, latents_KCTHW=sample.latents_KCTHW[:1])
    plain, weighted = (
        noise_sample(first, Draws.of("lids"), toy_sft(motion_latents=(1,), blink_weight=weight), torch.zeros(1, 8)) for weight in (0.0, 6.0)
    )
    more = (weighted.weight_THW / plain.weight_THW)[1:]
    assert (more[1] == 7).all() and (more[[0, 2, 3, 4, 5, 6, 7]] == 1).all() and not weighted.weight_THW[0].any()


def test_a_sample_of_unknown_lids_is_trained_on_as_before():
    sample = decode_tensors("toy", toy_tensors(), toy_plan())
    assert sample.lids_T is None and sample.shown(0) is sample.reference and not sample.shut(0).any()


def test_films_bring_their_lids_into_the_shards(tmp_path):
    folder = write_toy_films(tmp_path, 2)
    lids = torch.linspace(0, 1, 21)
    write_tensors(toy_film(0) | {"lids": lids}, folder / "toy-0.safetensors")
    with_them, without = film_clips(FilmSet(folder), "A film.", 8)
    assert torch.equal(with_them.lids_T, lids) and without.lids_T is None


def test_a_stream_that_blinks_makes_the_keys_of_its_prompt_once(engine, monkeypatch):
    dit, made = engine.models.dit, []
    embed = dit.embed_context
    monkeypatch.setattr(dit, "embed_context", lambda *given: made.append(1) or embed(*given))
    monkeypatch.setattr(engine, "preset", replace(engine.preset, blinks=True))
    stream = engine.open(engine.reference(torch.zeros(3, 32, 48)), StreamSettings())
    chunks = list(stream.push(torch.zeros(2 * 17920)))
    assert {chunk.index for chunk in chunks} == {0, 1} and made == [1]
