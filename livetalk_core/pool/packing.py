"""Messages as bytes: pickles, with their length in front, over private sockets.

Pickles are safe here: both ends belong to the same user and the same files, no other process can reach the sockets, and nothing comes
from a network.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

HEADER = struct.Struct("!Q")
RECEIVE_BYTES = 1 << 20


class TensorPickler(pickle.Pickler):
    """Pickles only a tensor's own bytes, not the storage that it is a view of."""

    def reducer_override(self, value: object) -> object:
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            return rebuild_tensor, (flat.view(torch.uint8).numpy().tobytes(), value.dtype, tuple(value.shape))
        return NotImplemented


def rebuild_tensor(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8)).view(dtype).view(shape)


def pack(message: object) -> bytes:
    """A message as bytes, with its length as a header."""
    buffer = io.BytesIO()
    buffer.write(HEADER.pack(0))
    TensorPickler(buffer, protocol=5).dump(message)
    buffer.seek(0)
    buffer.write(HEADER.pack(buffer.getbuffer().nbytes - HEADER.size))
    return buffer.getvalue()


class Inbox:
    """Collects received bytes and yields whole messages."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> Iterator[object]:
        self.data += data
        while len(self.data) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(self.data)[0]
            if len(self.data) < end:
                return
            message = pickle.loads(memoryview(self.data)[HEADER.size : end])
            del self.data[:end]
            yield message


def messages(connection: socket.socket) -> Iterator[object]:
    """Yield messages from a blocking socket until the other end closes it."""
    inbox = Inbox()
    while data := connection.recv(RECEIVE_BYTES):
        yield from inbox.feed(data)
