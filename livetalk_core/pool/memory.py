"""Memory that a pool and its workers share. It is anonymous, so nothing is left behind, however a process ends.

The segments are Linux memfds, inherited as file descriptors: they have no name, and the limits of /dev/shm do not apply.
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
    """One piece of shared memory, which can grow. The pool creates it; a worker opens it by its descriptor."""

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
        """Grow to at least `num_bytes`, allocated now: too little memory is an OSError here, not a bus error later."""
        if num_bytes > self.num_bytes:
            size = -(-num_bytes // PAGE_BYTES) * PAGE_BYTES
            os.posix_fallocate(self.fd, 0, size)
            self.map(size)

    def map(self, num_bytes: int) -> None:
        """Map the first `num_bytes` of the segment, which must be at least that large."""
        if num_bytes > self.num_bytes:
            self.bytes_U = torch.frombuffer(mmap.mmap(self.fd, num_bytes), dtype=torch.uint8)

    def put(self, tensor: Tensor) -> Parcel:
        """Copy a tensor in from any device; the parcel tells how to read it."""
        self.grow(tensor.nbytes)
        if tensor.is_cuda:
            self.pin()
        self.view(tensor.shape, tensor.dtype).copy_(tensor)
        return Parcel(shape=tuple(tensor.shape), dtype=tensor.dtype)

    def pin(self) -> None:
        """Register the mapped memory with CUDA as pinned, so the GPU writes to it directly."""
        if self.pinned_U is self.bytes_U:
            return
        cudart = torch.cuda.cudart()
        if len(self.pinned_U):
            torch.cuda.check_error(cudart.cudaHostUnregister(self.pinned_U.data_ptr()))
        torch.cuda.check_error(cudart.cudaHostRegister(self.bytes_U.data_ptr(), self.num_bytes, 0))
        self.pinned_U = self.bytes_U

    def take(self, parcel: Parcel) -> Tensor:
        """A copy of the tensor that was put in."""
        return self.lend(parcel, lambda: None).clone()

    def lend(self, parcel: Parcel, give_back: Callable[[], object]) -> Tensor:
        """The tensor that was put in, perhaps by another process that has grown the segment; not copied. `give_back` is called when no
        tensor uses this memory any more, at any time and in any thread."""
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
    """The number of the job to cancel: the pool writes it, rank 0 reads it between steps."""

    def __init__(self, segment: Segment) -> None:
        self.word = segment.bytes_U[:WORD_BYTES].numpy().view("int64")

    def set(self, job: int) -> None:
        self.word[0] = job

    def get(self) -> int:
        return int(self.word[0])
