"""Process groups of which only one process is there. Its exchanges are checked and noted, so that all ranks' notes can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from fake_gpu import CUDA
from torch import Tensor

from livetalk_core.parallel.group import SequenceGroup

Note = tuple[object, ...]


@dataclass
class Ranks:
    """All processes of a world, one of which is being played."""

    size: int
    rank: int = 0
    notes: dict[int, dict[tuple[int, ...], list[Note]]] = field(default_factory=dict)
    """By rank, and by the members of a group: its exchanges in order."""
    letters: dict[tuple[int, int], tuple[list[Note], list[Note]]] = field(default_factory=dict)
    """By sender and receiver: what was sent, and what was received."""

    def group(self, ulysses: int, ring: int) -> SequenceGroup:
        place, turn = self.rank % ulysses, self.rank // ulysses
        return SequenceGroup(
            rank=self.rank,
            size=self.size,
            ulysses_degree=ulysses,
            ring_degree=ring,
            device=CUDA,
            whole=Members(self, tuple(range(self.size))),
            ulysses=Members(self, tuple(range(turn * ulysses, (turn + 1) * ulysses))),
            ring=Members(self, tuple(range(place, self.size, ulysses))),
        )

    def check_agreement(self) -> None:
        """AssertionError unless every group's members made the same exchanges in the same order, and every letter was expected."""
        for members in {members for mine in self.notes.values() for members in mine}:
            lists = [self.notes[rank].get(members, []) for rank in members]
            for i, made in enumerate(zip(*lists, strict=False)):
                agree(members, i, made)
            assert len(set(map(len, lists))) == 1, f"exchanges of {members}: {list(map(len, lists))}"
        for (sender, receiver), (sent, received) in self.letters.items():
            assert sent == received, f"{sender} to {receiver}: {first_difference(sent, received)}"


def agree(members: tuple[int, ...], i: int, made: tuple[Note, ...]) -> None:
    """Exchange i of a group, as each member made it."""
    assert len({note[:2] for note in made}) == 1, f"exchange {i} of {members}: {set(made)}"
    if made[0][0] != "all_to_all":
        assert len(set(made)) == 1, f"exchange {i} of {members}: {set(made)}"
        return
    for mine, (*_, sent, _) in enumerate(made):
        assert list(sent) == [note[-1][mine] for note in made], f"exchange {i} of {members}: {made}"


def first_difference(sent: list[Note], received: list[Note]) -> str:
    pairs = [(a, b) for a, b in zip(sent, received, strict=False) if a != b]
    return f"{pairs[0][0]} is received as {pairs[0][1]}" if pairs else f"{len(sent)} are sent and {len(received)} received"


@dataclass(frozen=True)
class Members:
    """A process group, seen from the rank that is played."""

    world: Ranks = field(repr=False, hash=False, compare=False)
    ranks: tuple[int, ...]

    @property
    def place(self) -> int:
        return self.ranks.index(self.world.rank)

    def note(self, kind: str, tensor: Tensor, *what: object) -> None:
        assert tensor.device == CUDA and tensor.is_contiguous(), f"{kind} of {tensor}"
        self.world.notes.setdefault(self.world.rank, {}).setdefault(self.ranks, []).append((kind, tensor.dtype, *what))


class Letter(NamedTuple):
    """In place of dist.P2POp."""

    action: object
    tensor: Tensor
    peer: int
    group: Members


class Arrived:
    def wait(self) -> None: ...


def all_gather(parts: list[Tensor], tensor: Tensor, group: Members) -> None:
    assert {(part.shape, part.dtype, part.device) for part in parts} == {(tensor.shape, tensor.dtype, tensor.device)}
    assert len(parts) == len(group.ranks)
    group.note("all_gather", tensor, tuple(tensor.shape))


def all_reduce(tensor: Tensor, op: object = None, group: Members | None = None) -> None:
    group.note("all_reduce", tensor, tuple(tensor.shape), str(op))


def broadcast(tensor: Tensor, src: int, group: Members) -> None:
    assert src in group.ranks
    group.note("broadcast", tensor, tuple(tensor.shape), src)


def all_to_all_single(out: Tensor, given: Tensor, output_split_sizes: list[int], input_split_sizes: list[int], group: Members) -> None:
    """The numbers of each split are what the peers must agree on."""
    assert out.is_contiguous() and (out.dtype, out.device) == (given.dtype, given.device) and out.shape[1:] == given.shape[1:]
    assert (sum(output_split_sizes), sum(input_split_sizes)) == (out.shape[0], given.shape[0])
    row = given[0].numel()
    sent, received = (tuple(n * row for n in sizes) for sizes in (input_split_sizes, output_split_sizes))
    group.note("all_to_all", given, sent, received)


def batch_isend_irecv(letters: list[Letter]) -> list[Arrived]:
    for action, tensor, peer, group in letters:
        assert tensor.device == CUDA and tensor.is_contiguous() and peer in group.ranks
        mine, sends = group.world.rank, action is dist.isend
        between = group.world.letters.setdefault((mine, peer) if sends else (peer, mine), ([], []))
        between[not sends].append((tuple(tensor.shape), tensor.dtype))
    return [Arrived() for _ in letters]


@contextmanager
def exchanges_are_noted() -> Iterator[None]:
    """torch.distributed's calls go to the functions above."""
    ours = {
        **{each.__name__: each for each in (all_gather, all_reduce, broadcast, all_to_all_single, batch_isend_irecv)},
        "P2POp": Letter,
        "get_rank": lambda group: group.place,
        "get_world_size": lambda group: len(group.ranks),
        "get_global_rank": lambda group, place: group.ranks[place],
    }
    before = {name: vars(dist)[name] for name in ours}
    vars(dist).update(ours)
    try:
        yield
    finally:
        vars(dist).update(before)


def play_all(size: int, ulysses: int, ring: int) -> Iterator[SequenceGroup]:
    """Each rank's own group, one rank after another; at the end their exchanges are compared."""
    world = Ranks(size)
    with exchanges_are_noted():
        for world.rank in range(size):
            yield world.group(ulysses, ring)
            torch._dynamo.reset()
    world.check_agreement()
