"""What a VAE's layers see beyond the pixels in hand: zeros around a whole picture; the neighbors' where each process has a band of it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from livetalk_core.models.attention import attention


class Borders(Protocol):
    """The layers that reach beyond a pixel ask here; all others are local."""

    def widen(self, x: Tensor, before: int, after: int) -> tuple[Tensor, tuple[int, int]]:
        """x with the neighbors' nearest row or column, where it has neighbors. `before` and `after`: 0 or 1, at the ends that are reached.

        Also whether zeros are still to be put around its rows and around its columns, 1 or 0 each.
        """
        ...

    def attend(self, q_TLNK: Tensor, k_TLNK: Tensor, v_TLNK: Tensor) -> Tensor:
        """The attention of the pixels in hand to those of the whole picture."""
        ...


class WholePicture:
    """All pixels are in hand."""

    def widen(self, x: Tensor, before: int, after: int) -> tuple[Tensor, tuple[int, int]]:
        return x, (1, 1)

    def attend(self, q_TLNK: Tensor, k_TLNK: Tensor, v_TLNK: Tensor) -> Tensor:
        return attention(q_TLNK, k_TLNK, v_TLNK)


WHOLE = WholePicture()
