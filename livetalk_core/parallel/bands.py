"""Splits a picture among processes into bands along its longer side, so that the borders between them are short."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Bands:
    """Band r has latent rows (or columns) bounds[r] to bounds[r + 1]. Only the first `active` bands are not empty."""

    height: int
    """Latent rows of the whole picture."""
    width: int
    bounds: tuple[int, ...]

    @property
    def dim(self) -> int:
        """The dim of [..., H, W] tensors that is split: -2 or -1."""
        return -2 if self.height >= self.width else -1

    @property
    def lengths(self) -> list[int]:
        return [end - start for start, end in zip(self.bounds[:-1], self.bounds[1:], strict=True)]

    @property
    def active(self) -> int:
        """Number of processes with a non-empty band."""
        return sum(length > 0 for length in self.lengths)

    def size(self, rank: int) -> tuple[int, int]:
        """Latent rows and columns of a band."""
        length = self.lengths[rank]
        return (length, self.width) if self.dim == -2 else (self.height, length)

    def cut(self, x: Tensor, rank: int, scale: int = 1) -> Tensor:
        """One band of latents [..., h, w], or of pixels if `scale` is the number of pixels per latent."""
        whole = (self.height * scale, self.width * scale)
        assert x.shape[-2:] == whole, f"bands of {whole} cannot cut {tuple(x.shape[-2:])}"
        return x.narrow(self.dim, self.bounds[rank] * scale, self.lengths[rank] * scale)


def cut_bands(height: int, width: int, size: int) -> Bands:
    """Bands of a picture of height x width latents for `size` processes. Lengths differ by at most one; empty bands come last."""
    rows = max(height, width)
    active = min(size, rows)
    bounds = [rows * i // active for i in range(active + 1)]
    return Bands(height=height, width=width, bounds=(*bounds, *[rows] * (size - active)))
