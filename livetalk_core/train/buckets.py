"""Which samples make up a batch: all of one size, shuffled, and the same plan on every process.

The order is a function of (seed, step) alone. Nothing needs to be saved to go on at any step, with any number of processes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np


class BucketBatches:
    """Batches from number `start` on, without end: this process's share of each.

    An epoch has every sample once, but for those that do not fill a batch of their bucket; they differ from epoch to epoch.
    A bucket smaller than a batch repeats its samples.
    """

    def __init__(self, buckets: Sequence[Hashable], *, batch: int, rank: int, world: int, seed: int, start: int = 0):
        if not buckets:
            raise ValueError("no samples to make batches of; prepare some")
        self.batch, self.rank, self.world, self.seed, self.start = batch, rank, world, seed, start
        names = sorted(set(buckets), key=str)
        place = {name: i for i, name in enumerate(names)}
        number_of_N = np.fromiter((place[name] for name in buckets), np.int64, len(buckets))
        self.members = [np.flatnonzero(number_of_N == i) for i in range(len(names))]

    @property
    def whole(self) -> int:
        """Samples of one batch over all processes."""
        return self.batch * self.world

    @property
    def per_epoch(self) -> int:
        return sum(max(1, len(members) // self.whole) for members in self.members)

    def __iter__(self) -> Iterator[list[int]]:
        number = self.start
        while True:
            epoch, at = divmod(number, self.per_epoch)
            for row in self.plan_epoch(epoch)[at:]:
                yield row[self.rank * self.batch : (self.rank + 1) * self.batch].tolist()
                number += 1

    def plan_epoch(self, epoch: int) -> np.ndarray:
        """[per_epoch, whole] sample numbers, one bucket a row."""
        rng = np.random.default_rng([self.seed, epoch])
        rows = []
        for members in self.members:
            order = rng.permutation(members)
            count = max(1, len(order) // self.whole)
            rows.append(np.resize(order, count * self.whole).reshape(count, self.whole))
        return rng.permutation(np.concatenate(rows))
