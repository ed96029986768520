"""The small model's DiT: what it predicts, and the kernels that shift its picture."""

import pytest
import torch
from test_dit import CONFIG, inputs, run

from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.small_dit import T_FLOOR, SmallDiT, SmallDiTConfig, build_dit, choose_config
from livetalk_core.presets import nano


def answering(predicts: str, **sizes) -> SmallDiT:
    return build_dit(SmallDiTConfig(**vars(CONFIG) | sizes, predicts=predicts))


def test_options_of_the_small_model_select_the_small_network():
    with torch.device("meta"):
        assert type(build_dit(CONFIG)) is AudioDiT and type(build_dit(nano().dit)) is SmallDiT
    assert choose_config(dim=64, predicts="velocity", picture_in="first") == DiTConfig(dim=64)
    for only in ({"predicts": "change"}, {"picture_in": "every"}, {"predicts": "change", "shifts": 2}):
        assert choose_config(dim=64, **only) == SmallDiTConfig(dim=64, **only)


def test_the_condition_shows_the_picture_in_the_first_frame_or_in_every():
    assert DiTConfig().picture_frames(33) == SmallDiTConfig(picture_in="first").picture_frames(33) == 1
    assert SmallDiTConfig(picture_in="every").picture_frames(33) == 33


@pytest.mark.parametrize("t", [1.0, 0.5, T_FLOOR, 0.05, 0.0])
def test_a_predicted_change_becomes_the_velocity_that_leads_to_it(t):
    one, other = inputs(), inputs(seed=1)
    x, condition, answer = one["latent"], one["condition"], other["latent"]
    x0 = x - t * answering("change").to_velocity(answer, x, t, condition)
    share = min(1, t / T_FLOOR)
    expected = x + share * (condition[:, 4:] + answer - x)
    assert torch.allclose(x0, expected, atol=1e-5), "all of the way to reference and change from the floor on, less of it below"
    assert torch.equal(answering("velocity").to_velocity(answer, x, t, condition), answer)


def test_each_item_of_a_batch_has_its_own_time():
    (x, answer), condition = torch.randn(2, 3, 16, 2, 4, 6), torch.randn(3, 20, 2, 4, 6)
    t_B = torch.tensor([0.9, 0.3, 0.02])
    dit = answering("change")
    together = dit.to_velocity(answer, x, t_B.view(-1, 1, 1, 1, 1), condition)
    alone = [dit.to_velocity(answer[i], x[i], float(t_B[i]), condition[i]) for i in range(3)]
    assert torch.allclose(together, torch.stack(alone), rtol=1e-5)


@pytest.mark.parametrize("name, allowed", [("predicts", "velocity or change"), ("picture_in", "first or every")])
def test_an_unknown_prediction_or_condition_is_refused(name, allowed):
    with pytest.raises(ValueError, match=f"{name}='noise' must be {allowed}"):
        SmallDiTConfig(**{name: "noise"})


def with_shifts(ways: int) -> SmallDiT:
    """A DiT with shift kernels, all weights random."""
    torch.manual_seed(0)
    dit = answering("change", shifts=ways)
    for p in dit.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return dit.eval()


def test_a_change_mixes_the_prediction_and_shifted_reference_latents():
    """Against the head's own output, and the kernels written out at two positions."""
    dit, given = with_shifts(3), inputs()
    mixed = run(dit, given)
    raw = []
    head = dit.head.forward
    dit.head.forward = lambda *args: raw.append(head(*args)) or raw[-1]
    run(dit, given)
    answer = dit.unpatchify(raw[0], given["latent"].shape)
    picture = torch.nn.functional.pad(given["condition"][:, 4:, 0], (1, 1, 1, 1), mode="replicate")
    for t, y, x in ((0, 0, 0), (1, 2, 3)):
        near = picture[0, :, y : y + 3, x : x + 3]
        shares = (dit.shifts.weight.unflatten(0, (3, 16)) * near).sum((2, 3, 4)) + dit.shifts.bias.unflatten(0, (3, 16))
        expected = answer[0, :16, t, y, x] + answer[0, 16:, t, y, x] @ shares
        assert torch.allclose(mixed[0, :, t, y, x], expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(mixed, answer[:, :16], atol=1e-2)


def test_the_kernels_see_the_margin_around_a_crop():
    dit = with_shifts(2)
    condition = torch.randn(1, 20, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    whole = dit.embed_condition(condition).shifted_BSCHW
    part, around = condition[..., 2:4, 2:6], condition[:, 4:, 0, 1:5, 1:7]
    assert torch.allclose(dit.embed_condition(part, around).shifted_BSCHW, whole[..., 2:4, 2:6], atol=1e-5)
    assert not torch.allclose(dit.embed_condition(part).shifted_BSCHW, whole[..., 2:4, 2:6], atol=1e-2), "the control"


def test_shifts_without_predicting_a_change_are_refused():
    with pytest.raises(ValueError, match="shifts=3 needs predicts='change'; set that, or shifts=0"):
        SmallDiTConfig(shifts=3)
