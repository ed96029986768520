"""The projection that learns to hear: cut as serving cuts, taught from nothing, examined on what it was not taught."""

import ctypes.util

import numpy as np
import pytest
import torch

from livetalk_core.models.weightless import MelConfig
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import nano
from livetalk_core.talker.viseme import FIELDS
from livetalk_core.train.audio_pretraining import (
    AROUND_FRAMES,
    PIECE_FRAMES,
    MouthPredictor,
    PretrainSettings,
    Speech,
    cut_chunk,
    drop_inputs,
    encode_script,
    group_by_latent,
    last_start,
    measure_correlation,
    pretrain,
)

DIT, PLAN = nano().dit, StreamPlan(width=128, height=128)


def toy_speech(count: int, seed: int = 0) -> Speech:
    """A mouth that is six of the energies of its own frame, among noise."""
    noise = torch.randn(count, PIECE_FRAMES + 2 * AROUND_FRAMES, DIT.audio_dim, generator=torch.Generator().manual_seed(seed)).half()
    return Speech(features_BTX=noise, mouth_BTK=noise[:, AROUND_FRAMES:-AROUND_FRAMES, ::27].float() * 0.1 + 0.5)


def test_a_chunk_is_cut_as_a_stream_cuts_it():
    speech = toy_speech(2)
    windows_BTWX, mouth_BTK = cut_chunk(speech, torch.tensor([1, 0]), 7, PLAN)
    assert windows_BTWX.shape == (2, PLAN.chunk_frames, DIT.audio_window, DIT.audio_dim) and mouth_BTK.shape == (
        2,
        PLAN.chunk_frames,
        len(FIELDS),
    )
    for frame in (0, 5, 32):
        around = speech.features_BTX[1, AROUND_FRAMES + 7 + frame - 2 : AROUND_FRAMES + 7 + frame + 3].float()
        assert torch.equal(windows_BTWX[0, frame], around)
    cut_chunk(speech, torch.tensor([0]), last_start(PLAN), PLAN)


def test_frames_go_to_their_latent_frames():
    mouth_BTK = torch.arange(9.0)[None, :, None]
    assert group_by_latent(mouth_BTK, 4).tolist() == [[[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]]


@pytest.mark.slow
def test_what_can_be_heard_is_learned_and_what_cannot_is_not():
    settings = PretrainSettings(steps=300, batch=16)
    predictor = pretrain(DIT, PLAN, toy_speech(40), settings, tell=len)
    found = measure_correlation(predictor, PLAN, toy_speech(6, seed=1))
    assert tuple(found) == FIELDS and min(found.values()) > 0.35
    deaf = toy_speech(6, seed=1)._replace(features_BTX=toy_speech(6, seed=2).features_BTX)
    assert max(map(abs, measure_correlation(predictor, PLAN, deaf).values())) < 0.2


def test_a_lesson_is_its_seeds_own_and_leaves_no_dropout_behind():
    settings = PretrainSettings(steps=2, batch=2)
    one, two, other = (pretrain(DIT, PLAN, toy_speech(4), PretrainSettings(steps=2, batch=2, seed=seed), tell=len) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.proj.proj1_vf.weight, other.proj.proj1_vf.weight)
    assert not any(layer._forward_pre_hooks for layer in one.modules())
    predictor, windows = MouthPredictor(DIT), torch.randn(1, PLAN.chunk_frames, DIT.audio_window, DIT.audio_dim)
    drop_inputs(predictor.proj, settings)
    assert not torch.equal(predictor(windows), predictor(windows))


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="espeak-ng is not installed")
def test_a_script_is_heard_in_pieces_that_follow_each_other():
    speech = encode_script(0, MelConfig(), "heldout")
    assert speech.features_BTX.shape == (4, 105, 160) and speech.mouth_BTK.shape == (4, 89, 6)
    assert torch.equal(speech.features_BTX[0, PIECE_FRAMES:], speech.features_BTX[1, : 2 * AROUND_FRAMES])
    loud = speech.features_BTX[:, AROUND_FRAMES:-AROUND_FRAMES].float().mean(2).flatten()
    assert np.corrcoef(loud, speech.mouth_BTK[..., 0].flatten())[0, 1] > 0.3
