"""SyncNet in the layout of its published weights (Chung and Zisserman 2016): features of 5 frames of a mouth and of 0.2 s of sound.

Axes: B windows, D = 1024 features.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

FEATURES = 1024


class SyncNet(nn.Module):
    """`lips` and `sound` give features whose distance is small where they belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *layer(nn.Conv2d(1, 64, 3, padding=1)),
            nn.MaxPool2d(1, 1),
            *layer(nn.Conv2d(64, 192, 3, padding=1)),
            nn.MaxPool2d(3, (1, 2)),
            *layer(nn.Conv2d(192, 384, 3, padding=1)),
            *layer(nn.Conv2d(384, 256, 3, padding=1)),
            *layer(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, 2),
            *layer(nn.Conv2d(256, 512, (5, 4))),
        )
        self.netcnnlip = nn.Sequential(
            *layer(nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *layer(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *layer(nn.Conv3d(256, 512, (1, 6, 6))),
        )
        self.netfcaud, self.netfclip = head(), head()

    def lips(self, frames_B35HW: Tensor) -> Tensor:
        """[B, 3, 5, 224, 224] in blue, green, red from 0 to 255 -> [B, D]."""
        return self.netfclip(self.netcnnlip(frames_B35HW).flatten(1))

    def sound(self, mfcc_B1CF: Tensor) -> Tensor:
        """[B, 1, 13, 20] -> [B, D]."""
        return self.netfcaud(self.netcnnaud(mfcc_B1CF).flatten(1))


def layer(convolution: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, nn.Module, nn.Module]:
    norm = nn.BatchNorm3d if isinstance(convolution, nn.Conv3d) else nn.BatchNorm2d
    return convolution, norm(convolution.out_channels), nn.ReLU()


def head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, FEATURES))


def load_syncnet(state: Mapping[str, Tensor]) -> SyncNet:
    """SyncNet with published weights, which are older than batch norm's counters. ValueError for others."""
    model = SyncNet()
    try:
        left = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise ValueError(f"these are no weights of SyncNet ({str(error).splitlines()[-1].strip()}); take syncnet_v2.model") from None
    wrong = [name for name in left.missing_keys if not name.endswith("num_batches_tracked")] + left.unexpected_keys
    if wrong:
        raise ValueError(f"these are no weights of SyncNet ({wrong[0]} does not fit); take syncnet_v2.model")
    return model.eval()
