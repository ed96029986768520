"""Communication between processes: gather, all-to-all of heads and tokens, ring, broadcast and halo exchange.

Lengths along the split dim may differ between processes, but every process knows all of them. Errors are never caught here: after a missed
send or wait the peers would receive the wrong message, so a failed process must end the group.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_parts(part: Tensor, dim: int, lengths: list[int], group: dist.ProcessGroup) -> Tensor:
    """All processes' parts, concatenated along `dim`, on every process; process r has length `lengths[r]`."""
    longest, rows = max(lengths), part.movedim(dim, 0)
    if rows.shape[0] < longest:
        rows = torch.cat([rows, rows.new_zeros(longest - rows.shape[0], *rows.shape[1:])])
    pieces = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in lengths]
    dist.all_gather(pieces, rows.contiguous(), group=group)
    return torch.cat([piece[:n] for piece, n in zip(pieces, lengths, strict=True)]).movedim(0, dim)


def gather_on_first(part: Tensor, dim: int, lengths: list[int], group: dist.ProcessGroup) -> Tensor:
    """All processes' parts, concatenated along `dim`, on process 0; an empty tensor (length 0 in dim 0) on the others."""
    dim = dim % part.ndim
    if dist.get_rank(group):
        if part.shape[dim]:
            exchange([dist.P2POp(dist.isend, part.contiguous(), dist.get_global_rank(group, 0), group)])
        return part.new_empty(0, *part.shape[1:dim], sum(lengths), *part.shape[dim + 1 :])
    shapes = [(*part.shape[:dim], n, *part.shape[dim + 1 :]) for n in lengths]
    parts = [part, *(part.new_empty(shape) for shape in shapes[1:])]
    sources = [r for r, n in enumerate(lengths) if r > 0 and n > 0]
    exchange([dist.P2POp(dist.irecv, parts[r], dist.get_global_rank(group, r), group) for r in sources])
    return torch.cat(parts, dim)


def tokens_for_heads(x_SBLNK: Tensor, lengths: list[int], group: dist.ProcessGroup) -> Tensor:
    """All-to-all: local tokens of all heads [S, B, L, N, K] -> all tokens of local heads [S, B, sum of lengths, N / U, K]."""
    size, own = len(lengths), x_SBLNK.shape[2]
    sent = x_SBLNK.unflatten(3, (size, -1)).permute(3, 2, 0, 1, 4, 5).flatten(0, 1).contiguous()
    received = sent.new_empty(sum(lengths), *sent.shape[1:])
    dist.all_to_all_single(received, sent, output_split_sizes=lengths, input_split_sizes=[own] * size, group=group)
    return received.permute(1, 2, 0, 3, 4)


def heads_for_tokens(x_BLNK: Tensor, lengths: list[int], own: int, group: dist.ProcessGroup) -> Tensor:
    """The inverse all-to-all: all tokens of local heads -> the `own` local tokens of all heads."""
    size, sent = len(lengths), x_BLNK.movedim(1, 0).contiguous()
    received = sent.new_empty(size * own, *sent.shape[1:])
    dist.all_to_all_single(received, sent, output_split_sizes=[own] * size, input_split_sizes=lengths, group=group)
    return received.unflatten(0, (size, own)).permute(2, 1, 0, 3, 4).flatten(2, 3)


def send_to_next(sent: Tensor, received: Tensor, group: dist.ProcessGroup) -> list[dist.Work]:
    """Start sending to the next process of the ring and receiving from the previous one. Wait for the works before use."""
    place, size = dist.get_rank(group), dist.get_world_size(group)
    after, before = (dist.get_global_rank(group, (place + step) % size) for step in (1, -1))
    return dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, after, group), dist.P2POp(dist.irecv, received, before, group)])


def share_first(x: Tensor, dim: int, count: int, lengths: list[int], group: dist.ProcessGroup) -> Tensor:
    """The first `count` rows of the concatenated parts, on every process: the processes that have them broadcast them."""
    rank, pieces = dist.get_rank(group), []
    for owner, length in enumerate(lengths):
        size = min(length, count - sum(lengths[:owner]))
        if size <= 0:
            break
        shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
        piece = x.narrow(dim, 0, size).contiguous() if owner == rank else x.new_empty(shape)
        dist.broadcast(piece, dist.get_global_rank(group, owner), group=group)
        pieces.append(piece)
    return torch.cat(pieces, dim)


def exchange_halos(x: Tensor, dim: int, before: int, after: int, active: int, group: dist.ProcessGroup) -> Tensor:
    """x extended along `dim` by its neighbors' nearest row: `before` rows in front, `after` rows behind.

    x is [B, C, ..., H, W] and `dim` negative. Zeros stand in at the outer ends of the first and the last of the `active` processes.
    `before` and `after` are 0 or 1, and the same on all processes. Rows are sent channels-last: then the result keeps that memory format
    if x has it, and processes with different formats still understand each other.
    """
    rank, end = dist.get_rank(group), x.shape[dim] - 1
    first, last = (x.narrow(dim, i, 1).movedim(1, -1).contiguous() for i in (0, end))
    above, below, operations = torch.zeros_like(first), torch.zeros_like(last), []
    if rank > 0:
        previous = dist.get_global_rank(group, rank - 1)
        operations += [dist.P2POp(dist.irecv, above, previous, group)] * before + [dist.P2POp(dist.isend, first, previous, group)] * after
    if rank + 1 < active:
        following = dist.get_global_rank(group, rank + 1)
        operations += [dist.P2POp(dist.isend, last, following, group)] * before + [dist.P2POp(dist.irecv, below, following, group)] * after
    exchange(operations)
    above, below = (row.movedim(-1, 1) for row in (above, below))
    return torch.cat([above] * before + [x] + [below] * after, dim)


def exchange(operations: list[dist.P2POp]) -> None:
    """Run point-to-point operations and wait for them."""
    for work in dist.batch_isend_irecv(operations) if operations else ():
        work.wait()
