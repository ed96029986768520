"""The small model's DiT in training. A sample may be a square crop; the network then also gets the latents around it."""

from __future__ import annotations

from torch import Tensor

from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.small_dit import SmallDiTConfig
from livetalk_core.train.net import VelocityNet


class SmallVelocityNet(VelocityNet):
    def forward(
        self,
        x_BCTHW: Tensor,
        t_B: Tensor,
        condition_BCTHW: Tensor,
        text_BLD: Tensor,
        image_BLD: Tensor,
        features_BPTWX: Tensor,
        around_BCHW: Tensor | None = None,
    ) -> Tensor:
        """See VelocityNet; `around_BCHW` as in `SmallDiT.embed_condition`."""
        embedded = self.dit.embed_condition(condition_BCTHW, around_BCHW)
        return self.velocity(x_BCTHW, t_B, condition_BCTHW, embedded, text_BLD, image_BLD, features_BPTWX)


def make_net(config: DiTConfig) -> VelocityNet:
    """The training network of a config."""
    return SmallVelocityNet(config) if isinstance(config, SmallDiTConfig) else VelocityNet(config)
