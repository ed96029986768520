"""VBench's four measures against its own code with the same weights, and orderings that must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench_films import shown, write_film
from formula import fill, formula_tensor, made_frames
from safetensors.torch import load_file

from livetalk_core.evaluate.talkbench.amt import AMT, load_amt
from livetalk_core.evaluate.talkbench.clip_image import build_clip, encode_clip
from livetalk_core.evaluate.talkbench.consistency import Consistency, Likeness, pictures_of
from livetalk_core.evaluate.talkbench.dino import Dino, encode_dino, load_dino
from livetalk_core.evaluate.talkbench.flicker import TemporalFlickering
from livetalk_core.evaluate.talkbench.measure import NotMeasured
from livetalk_core.evaluate.talkbench.measures import Opening, open_measures
from livetalk_core.evaluate.talkbench.smoothness import MotionSmoothness

CPU = torch.device("cpu")
FILMS = {"small": made_frames(9, 40, 56), "tall": made_frames(6, 72, 48, 3)}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(Path(__file__).parent / "golden_talkbench" / "vbench.safetensors")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    return {name: write_film(folder / f"{name}.mkv", frames) for name, frames in FILMS.items()}


@pytest.fixture(scope="module")
def dino() -> Dino:
    return fill(load_dino(Dino(128, 2, 16, 197, 512).state_dict()), 1.0, "dino.")


@pytest.fixture(scope="module")
def amt() -> AMT:
    return fill(AMT(), 0.7, "amt.")


def toy_clip() -> torch.nn.Module:
    """The image tower of the golden file."""
    return build_clip(toy_clip_state()).eval()


def toy_clip_state() -> dict[str, torch.Tensor]:
    """Its tensors in OpenAI's names."""
    shapes = {
        "class_embedding": (128,), "positional_embedding": (50, 128), "proj": (128, 32), "conv1.weight": (128, 3, 32, 32),
        "ln_pre.weight": (128,), "ln_pre.bias": (128,), "ln_post.weight": (128,), "ln_post.bias": (128,),
    }  # fmt: skip
    for block in ("transformer.resblocks.0", "transformer.resblocks.1"):
        for name, shape in (("attn.in_proj_", (384, 128)), ("attn.out_proj.", (128, 128)), ("mlp.c_fc.", (512, 128)),
                            ("mlp.c_proj.", (128, 512)), ("ln_1.", (128,)), ("ln_2.", (128,))):  # fmt: skip
            shapes |= {f"{block}.{name}weight": shape, f"{block}.{name}bias": shape[:1]}
    return {name: formula_tensor(f"clip.{name}", torch.empty(shape), 1.0) for name, shape in shapes.items()}


def subject(dino: Dino) -> Consistency:
    return Consistency("subject_consistency", "subject_c", lambda pictures: encode_dino(dino, pictures), CPU, "toy")


@torch.no_grad()
def test_dino_gives_the_published_features_also_of_pictures_that_are_not_square(golden, dino):
    features = encode_dino(dino, pictures_of(list(FILMS["small"]), CPU))
    torch.testing.assert_close(features, golden["dino_features"], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_clip_gives_the_published_features(golden):
    features = encode_clip(toy_clip(), pictures_of(list(FILMS["small"]), CPU))
    torch.testing.assert_close(features, golden["clip_features"], atol=2e-5, rtol=1e-5)


def test_subject_consistency_is_vbenchs_and_a_sets_mean_is_weighted_by_frames(golden, dino, films):
    found = [subject(dino).measure(shown(films[name])) for name in FILMS]
    values = [each.numbers["subject_c"] for each in found]
    mean = sum(value * each.weight for value, each in zip(values, found, strict=True)) / sum(each.weight for each in found)
    assert [mean, *values] == pytest.approx(golden["subject"].tolist(), abs=1e-5)


def test_background_consistency_is_vbenchs(golden, films):
    model = toy_clip()
    measure = Consistency("background_consistency", "bg_c", lambda pictures: encode_clip(model, pictures), CPU, "toy")
    values = [measure.measure(shown(films[name])).numbers["bg_c"] for name in FILMS]
    assert values == pytest.approx(golden["background"][1:].tolist(), abs=1e-5)


def test_temporal_flickering_is_vbenchs(golden, films):
    values = [TemporalFlickering().measure(shown(films[name])).numbers["temporal_f"] for name in FILMS]
    assert [sum(values) / 2, *values] == pytest.approx(golden["flicker"].tolist(), abs=1e-5)


def test_amt_and_motion_smoothness_are_the_published_ones(golden, amt, tmp_path):
    films = [made_frames(8, 136, 152), made_frames(7, 136, 152, 4)]
    measure = MotionSmoothness(amt, CPU, "toy")
    values = [measure.measure(shown(write_film(tmp_path / f"{k}.mkv", film))).numbers["motion_s"] for k, film in enumerate(films)]
    assert values == pytest.approx(golden["motion"].tolist(), abs=1e-5)


@torch.no_grad()
def test_the_middle_frame_is_the_published_one(golden, amt):
    a, b = (torch.nn.functional.pad(pictures_of([made_frames(8, 136, 152)[k]], CPU) / 255, (4, 4, 4, 4), mode="replicate") for k in (0, 2))
    torch.testing.assert_close(amt(a, b)[..., 40:72, 40:72], golden["amt_frame"], atol=2e-5, rtol=0)


def test_batches_do_not_change_the_likeness():
    features_ND = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    whole, parts = Likeness(), Likeness()
    whole.add(features_ND)
    for piece in features_ND.split((1, 2, 4)):
        parts.add(piece)
    assert parts.total == pytest.approx(whole.total) and parts.count == whole.count == 6


def test_a_frozen_picture_has_the_highest_temporal_f(films, tmp_path):
    frozen = write_film(tmp_path / "frozen.mkv", np.repeat(FILMS["small"][:1], 9, axis=0))
    assert TemporalFlickering().measure(shown(frozen)).numbers["temporal_f"] == 1.0
    assert TemporalFlickering().measure(shown(films["small"])).numbers["temporal_f"] < 1.0


def test_another_person_in_the_middle_lowers_subject_c(dino, films, tmp_path):
    still = np.repeat(FILMS["small"][:1], 9, axis=0)
    swapped = still.copy()
    swapped[5:] = 255 - made_frames(1, 40, 56, 9)[0][::-1]
    values = [
        subject(dino).measure(shown(write_film(tmp_path / f"{k}.mkv", film))).numbers["subject_c"]
        for k, film in enumerate((still, swapped))
    ]
    assert values[0] == pytest.approx(1, abs=1e-5) and values[1] < values[0] - 0.01


def test_dropped_frames_lower_motion_s(tmp_path):
    """AMT-S without weights gives the mean of both neighbors; steady motion in a smooth picture is close to it, a jump is not."""
    blank = AMT()
    for parameter in blank.parameters():
        torch.nn.init.zeros_(parameter)
    x = np.arange(128)
    steady = np.stack([np.tile(127 + 100 * np.sin((x + t) / 20), (128, 1)) for t in range(16)])
    dropped = np.repeat(steady[::3], 3, axis=0)[:15]
    films = [np.repeat(film.round().astype(np.uint8)[..., None], 3, axis=-1) for film in (steady[:15], dropped)]
    measure = MotionSmoothness(blank.eval(), CPU, "blank")
    values = [measure.measure(shown(write_film(tmp_path / f"{k}.mkv", film))).numbers["motion_s"] for k, film in enumerate(films)]
    assert values[1] < values[0] - 0.002 and values[0] > 0.995


@pytest.mark.parametrize("count, measured", [(1, ()), (2, ("temporal_f", "subject_c")), (3, ("temporal_f", "subject_c", "motion_s"))])
def test_too_few_frames_are_said_and_not_measured(count, measured, dino, tmp_path):
    film = shown(write_film(tmp_path / "film.mkv", made_frames(count, 128, 128)))
    for column, measure in {
        "temporal_f": TemporalFlickering(),
        "subject_c": subject(dino),
        "motion_s": MotionSmoothness(lambda a, b: (a + b) / 2, CPU, "mean"),
    }.items():
        if column in measured:
            assert column in measure.measure(film).numbers
        else:
            with pytest.raises(NotMeasured, match="needs? [23]"):
                measure.measure(film)


def test_pictures_too_small_for_amt_are_said(tmp_path):
    with pytest.raises(NotMeasured, match="56x40 pixels, and AMT-S needs 128"):
        MotionSmoothness(lambda a, b: a, CPU, "").measure(shown(write_film(tmp_path / "film.mkv", FILMS["small"])))


def write_script(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A TorchScript file whose tensors have these names, as OpenAI publishes CLIP."""
    root = torch.nn.Module()
    for name, value in state.items():
        *folders, last = name.split(".")
        place = root
        for folder in folders:
            if folder not in dict(place.named_children()):
                place.add_module(folder, torch.nn.Module())
            place = place.get_submodule(folder)
        place.register_parameter(last, torch.nn.Parameter(value.half()))
    torch.jit.script(root).save(str(path))
    return path


@torch.no_grad()
def test_published_files_are_found_and_give_what_their_tensors_give(dino, amt, films, tmp_path):
    metrics = tmp_path / "metrics"
    (metrics / "vbench").mkdir(parents=True)
    torch.save(dino.state_dict(), metrics / "dino_vitbase16_pretrain.pth")
    torch.save({"epoch": 300, "state_dict": amt.state_dict(), "optim": {}}, metrics / "vbench" / "amt-s.pth")
    state = {f"visual.{name}": value for name, value in toy_clip_state().items()}
    write_script(metrics / "ViT-B-32.pt", {**state, "text_projection": torch.zeros(2, 2)})
    names = ["subject_consistency", "background_consistency", "motion_smoothness"]
    opened = open_measures(names, Opening(folder=metrics, device=CPU))
    assert opened[0].measure(shown(films["small"])).numbers == subject(dino).measure(shown(films["small"])).numbers
    halves = build_clip({name: value.half().float() for name, value in toy_clip_state().items()}).eval()
    own = Consistency("background_consistency", "bg_c", lambda pictures: encode_clip(halves, pictures), CPU, "toy")
    assert opened[1].measure(shown(films["small"])).numbers == own.measure(shown(films["small"])).numbers
    film = shown(write_film(tmp_path / "film.mkv", made_frames(3, 136, 152)))
    assert opened[2].measure(film).numbers == MotionSmoothness(amt, CPU, "toy").measure(film).numbers


@torch.no_grad()
def test_a_folder_of_transformers_gives_the_same_features(tmp_path):
    model = toy_clip()
    model.save_pretrained(tmp_path / "clip-vit-base-patch32")
    pictures = pictures_of(list(FILMS["small"][:2]), CPU)
    opened = open_measures(["background_consistency"], Opening(folder=tmp_path, device=CPU))[0]
    torch.testing.assert_close(opened.encode(pictures), encode_clip(model, pictures))


@pytest.mark.parametrize("load, name", [(load_dino, "dino_vitbase16_pretrain.pth"), (load_amt, "amt-s.pth")])
def test_other_weights_are_refused_in_one_line(load, name):
    with pytest.raises(ValueError, match=name) as error:
        load({"a": torch.zeros(1)})
    assert "\n" not in str(error.value)
