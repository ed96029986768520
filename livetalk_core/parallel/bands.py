"""How a picture is cut among processes: bands across its longer side, so that the borders are the shorter ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Bands:
    """Band r holds the latent rows (or columns) [bounds[r], bounds[r + 1]); bands after the `active` first are empty."""

    height: int
    """Latent rows of the whole picture."""
    width: int
    bounds: tuple[int, ...]

    @property
    def dim(self) -> int:
        """The cut dim of [..., H, W] tensors: -2 or -1."""
        return -2 if self.height >= self.width else -1

    @property
    def lengths(self) -> list[int]:
        return [end - start for start, end in zip(self.bounds[:-1], self.bounds[1:], strict=True)]

    @property
    def active(self) -> int:
        """Processes that have a band."""
        return sum(length > 0 for length in self.lengths)

    def size(self, rank: int) -> tuple[int, int]:
        """Latent rows and columns of one band."""
        length = self.lengths[rank]
        return (length, self.width) if self.dim == -2 else (self.height, length)

    def cut(self, x: Tensor, rank: int, scale: int = 1) -> Tensor:
        """Band of latents [..., h, w], or of pixels with `scale` of them per latent and side."""
        whole = (self.height * scale, self.width * scale)
        assert x.shape[-2:] == whole, f"bands of {whole} cannot cut {tuple(x.shape[-2:])}"
        return x.narrow(self.dim, self.bounds[rank] * scale, self.lengths[rank] * scale)


def cut_bands(height: int, width: int, size: int) -> Bands:
    """Bands of a picture of height x width latents for `size` processes: lengths differ by one at most, none is empty before the last."""
    rows = max(height, width)
    active = min(size, rows)
    bounds = [rows * i // active for i in range(active + 1)]
    return Bands(height=height, width=width, bounds=(*bounds, *[rows] * (size - active)))
