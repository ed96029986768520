"""Memory that a pool and its workers share: anonymous, so that nothing is left behind however any of them ends.

The segments are Linux memfds, handed down as file descriptors: no name, and none of the limits of /dev/shm.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from livetalk_core.pool.wire import Parcel

WORD_BYTES = 8
PAGE_BYTES = mmap.PAGESIZE


class Segment:
    """One piece of shared memory, of a size that may grow. The pool makes it; a worker opens it by its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.bytes_U = self.pinned_U = torch.zeros(0, dtype=torch.uint8)

    @classmethod
    def create(cls, name: str, num_bytes: int = 0) -> Segment:
        segment = cls(os.memfd_create(name, os.MFD_CLOEXEC))
        segment.grow(num_bytes)
        return segment

    @property
    def num_bytes(self) -> int:
        return len(self.bytes_U)

    def grow(self, num_bytes: int) -> None:
        """At least `num_bytes`, all of it backed by memory now: OSError here rather than a bus error later."""
        if num_bytes > self.num_bytes:
            size = -(-num_bytes // PAGE_BYTES) * PAGE_BYTES
            os.posix_fallocate(self.fd, 0, size)
            self.map(size)

    def map(self, num_bytes: int) -> None:
        """See the first `num_bytes` of the segment, which is at least as large."""
        if num_bytes > self.num_bytes:
            self.bytes_U = torch.frombuffer(mmap.mmap(self.fd, num_bytes), dtype=torch.uint8)

    def put(self, tensor: Tensor) -> Parcel:
        """Copy a tensor in, from whatever device; the parcel says how to read it."""
        self.grow(tensor.nbytes)
        if tensor.is_cuda:
            self.pin()
        self.view(tensor.shape, tensor.dtype).copy_(tensor)
        return Parcel(shape=tuple(tensor.shape), dtype=tensor.dtype)

    def pin(self) -> None:
        """Register what is mapped with CUDA: the GPU then writes there by itself, and nothing passes through the driver's buffers."""
        if self.pinned_U is self.bytes_U:
            return
        cudart = torch.cuda.cudart()
        if len(self.pinned_U):
            torch.cuda.check_error(cudart.cudaHostUnregister(self.pinned_U.data_ptr()))
        torch.cuda.check_error(cudart.cudaHostRegister(self.bytes_U.data_ptr(), self.num_bytes, 0))
        self.pinned_U = self.bytes_U

    def take(self, parcel: Parcel) -> Tensor:
        """A copy of what was put in."""
        return self.lend(parcel, lambda: None).clone()

    def lend(self, parcel: Parcel, give_back: Callable[[], object]) -> Tensor:
        """What was put in, perhaps by another process that has let the segment grow. `give_back` is called, at any moment and in any
        thread, when no tensor of it is left."""
        num_bytes = torch.Size(parcel.shape).numel() * parcel.dtype.itemsize
        self.map(num_bytes)
        bytes_U = self.bytes_U[:num_bytes].numpy()
        weakref.finalize(bytes_U, give_back).atexit = False
        return torch.from_numpy(bytes_U).view(parcel.dtype).view(parcel.shape)

    def view(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        return self.bytes_U[:num_bytes].view(dtype).view(shape)

    def close(self) -> None:
        os.close(self.fd)


class StopWord:
    """The number of the job to stop, written by the pool and read by rank 0 between steps."""

    def __init__(self, segment: Segment) -> None:
        self.word = segment.bytes_U[:WORD_BYTES].numpy().view("int64")

    def set(self, job: int) -> None:
        self.word[0] = job

    def get(self) -> int:
        return int(self.word[0])
