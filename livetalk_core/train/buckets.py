"""Which samples form a batch: all of one size, shuffled, and planned the same way on every process.

The order depends only on (seed, step). So a run can resume at any step, with any number of processes, without saving the order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np


class BucketBatches:
    """This process's share of every batch, from batch `start` on, without end.

    An epoch has every sample once, except those left over when a bucket is divided into batches; these differ from epoch to epoch.
    A bucket smaller than a batch repeats its samples.
    """

    def __init__(self, buckets: Sequence[Hashable], *, batch: int, rank: int, world: int, seed: int, start: int = 0):
        if not buckets:
            raise ValueError("there are no samples to train on; make some with livetalk prepare")
        self.batch, self.rank, self.world, self.seed, self.start = batch, rank, world, seed, start
        names = sorted(set(buckets), key=str)
        place = {name: i for i, name in enumerate(names)}
        number_of_N = np.fromiter((place[name] for name in buckets), np.int64, len(buckets))
        self.members = [np.flatnonzero(number_of_N == i) for i in range(len(names))]

    @property
    def whole(self) -> int:
        """Samples per batch, over all processes."""
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
        """Sample numbers [per_epoch, whole]; a row is a batch from one bucket."""
        rng = np.random.default_rng([self.seed, epoch])
        rows = []
        for members in self.members:
            order = rng.permutation(members)
            count = max(1, len(order) // self.whole)
            rows.append(np.resize(order, count * self.whole).reshape(count, self.whole))
        return rng.permutation(np.concatenate(rows))
