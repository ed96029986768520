"""A picture as the DiT's condition, and its own latent frame in it."""

import pytest
import torch
from made import pixels
from test_patch_vae import small_vae
from torch import Tensor

from livetalk_core.models.convolution import fold_kernels, lay_channels_last
from livetalk_core.models.vae import CausalVAE
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import nano, tiny
from livetalk_core.stream.condition import encode_condition, encode_picture, first_latent

PLAN = StreamPlan(width=48, height=32)


def causal_vae() -> CausalVAE:
    torch.manual_seed(0)
    return CausalVAE(tiny().vae).eval().requires_grad_(False)


@pytest.mark.parametrize("served", [False, True], ids=["plain", "served"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("picture_frames", [1, 33])
@pytest.mark.parametrize("make", [causal_vae, small_vae], ids=["published", "small"])
@torch.no_grad()
def test_the_first_latent_frame_is_that_of_the_picture_alone_to_the_bit(make, picture_frames, dtype, served):
    """Of both forms: the first frame of either is the picture, and nothing looks ahead."""
    vae, picture_CHW = make().to(dtype), pixels().to(dtype)
    if served:
        lay_channels_last(vae)
        fold_kernels(vae)
    alone = vae.encode(picture_CHW[:, None])
    found = first_latent(encode_condition(vae, picture_CHW, PLAN, picture_frames), PLAN)
    assert torch.equal(found, alone) and found.is_contiguous()
    assert not torch.equal(found, vae.encode(0.9 * picture_CHW[:, None])), "control"


def test_the_first_frames_are_the_picture_the_others_grey_and_the_mask_knows_the_first_latent():
    seen = []

    class Watched:
        def encode(self, video_CTHW: Tensor, groups: tuple[int, ...]) -> Tensor:
            seen.append(video_CTHW)
            return torch.full((nano().vae.z_dim, 9, 4, 6), 7.0)

    condition = encode_condition(Watched(), pixels(), PLAN, 5)
    assert torch.equal(seen[0][:, :5], pixels()[:, None].expand(-1, 5, -1, -1)) and not seen[0][:, 5:].any()
    assert condition.shape == (4 + nano().vae.z_dim, 9, 4, 6) and (condition[4:] == 7).all()
    assert (condition[:4, 0] == 1).all() and not condition[:4, 1:].any()
    assert torch.equal(encode_picture(Watched(), pixels(), PLAN, 1), condition[4:])
