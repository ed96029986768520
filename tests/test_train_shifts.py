"""Kernels that move a picture's latents."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from toys import SMALL_VAE

from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.models.small_dit import SmallDiT, SmallDiTConfig, surround
from livetalk_core.presets import tiny
from livetalk_core.train.films import PixelClip
from livetalk_core.train.shifts import likely_moves, moved, shift_kernels, still_latents
from livetalk_core.train.tokenizer import first_vae_state

CONFIG = replace(SMALL_VAE, z_dim=48)


def smooth_pictures(count: int, seed: int) -> list[torch.Tensor]:
    """Slow waves of color, [3, 48, 48]."""
    g = torch.Generator().manual_seed(seed)
    return [F.interpolate(torch.rand(1, 3, 8, 8, generator=g) * 2 - 1, size=48, mode="bicubic")[0].clamp(-1, 1) for _ in range(count)]


def small_vae(pictures: list[torch.Tensor]) -> PatchVAE:
    clips = [PixelClip(frames_CTHW=((p + 1) * 127.5).byte()[:, None].expand(-1, 5, -1, -1), mouth_HW=torch.zeros(48, 48)) for p in pictures]
    vae = PatchVAE(CONFIG)
    vae.load_state_dict(first_vae_state(CONFIG, clips, 0))
    return vae


def test_a_picture_moves_down_and_right_and_repeats_its_edge():
    picture = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(moved(picture, 1, 2)[:, 1:, 2:], picture[:, :-1, :-2], atol=1e-4)
    assert torch.allclose(moved(picture, 0, -3)[:, :, -3:], picture[:, :, -1:].expand(-1, -1, 3), atol=0.2)
    halfway = moved(picture, 0, 0.5)[:, :, 4:-4]
    between = (picture[:, :, 3:-5] + picture[:, :, 4:-4]) / 2
    assert (halfway - between).abs().mean() < (halfway - picture[:, :, 4:-4]).abs().mean() / 2


def test_moves_are_all_about_none_and_nearer_ones_count_more():
    moves_J2, share_J = likely_moves()
    assert len(moves_J2) == 13 * 13 - 1 and not (moves_J2 == 0).all(1).any()
    assert torch.allclose(share_J.sum(), torch.tensor(1.0).double()) and torch.allclose((share_J @ moves_J2), torch.zeros(2).double())
    assert share_J[moves_J2.norm(dim=1).argmin()] == share_J.max() and share_J[moves_J2.norm(dim=1).argmax()] == share_J.min()


def test_few_parts_weighted_come_near_every_move_of_a_picture_they_were_not_made_from():
    """By the DiT's own layer: what is left of the change is small, for moves in all directions, and less with more parts."""
    vae, others = small_vae(smooth_pictures(12, 0)), smooth_pictures(4, 1)
    left = {}
    for parts in (3, 8):
        dit = SmallDiT(SmallDiTConfig(**vars(tiny().dit) | {"in_dim": 2 * 48 + 4, "out_dim": 48}, predicts="change", shifts=parts))
        state = shift_kernels(vae, smooth_pictures(12, 0), parts)
        dit.load_state_dict(dit.state_dict() | state)
        with torch.no_grad():
            errors, changes, weights = [], [], []
            for picture in others:
                latents = still_latents(vae, picture)
                added = dit.shift_picture(F.pad(latents, (0, 0, 0, 0, 4, 0))[None, :, None], surround(latents[None]))[0]
                for move in ((1.0, 0.0), (-0.5, 0.5), (0.0, -1.5), (1.0, 2.0)):
                    change = still_latents(vae, moved(picture, *move)) - latents
                    weight = torch.linalg.lstsq(added.flatten(1).T, change.flatten()[:, None]).solution
                    errors.append((added.flatten(1).T @ weight - change.flatten()[:, None]).square().sum())
                    changes.append(change.square().sum())
                    weights.append(weight)
        left[parts] = float(sum(errors) / sum(changes))
        assert 0.1 < torch.stack(weights).std() < 10, "of the order of 1"
    assert left[8] < left[3] < 0.5 and left[8] < 0.1, left
