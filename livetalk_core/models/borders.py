"""What a VAE's layers see outside the local pixels: zeros around a whole picture, or the neighbor's pixels if each process has a band."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from livetalk_core.models.attention import attention


class Borders(Protocol):
    """Used by the layers that mix pixels; all other layers are local."""

    def add_halo(self, x: Tensor, before: int, after: int) -> tuple[Tensor, tuple[int, int]]:
        """x extended by the neighbors' nearest row or column. `before` and `after`: how many, 0 or 1, at each end.

        Also returns the zero padding that rows and columns still need, 0 or 1 each.
        """
        ...

    def attend(self, q_TLNK: Tensor, k_TLNK: Tensor, v_TLNK: Tensor) -> Tensor:
        """Attention of the local pixels to the whole picture."""
        ...


class WholePicture:
    """One process has the whole picture."""

    def add_halo(self, x: Tensor, before: int, after: int) -> tuple[Tensor, tuple[int, int]]:
        return x, (1, 1)

    def attend(self, q_TLNK: Tensor, k_TLNK: Tensor, v_TLNK: Tensor) -> Tensor:
        return attention(q_TLNK, k_TLNK, v_TLNK)


WHOLE = WholePicture()
