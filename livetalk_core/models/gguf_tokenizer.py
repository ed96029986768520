"""The tokenizer inside a T5 file in GGUF, as the SentencePiece model that it was made from.

GGUF stores a model's pieces, scores, types and normalization one by one (tokenizer.ggml.*, written by llama.cpp's converter).
SentencePiece reads them as one protobuf message (sentencepiece_model.proto); the few fields of it that count are written here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "tokenizer.ggml.tokens"
UNIGRAM, BYTE = 1, 6
"""A kind of model and a kind of piece in sentencepiece_model.proto. GGUF counts kinds of pieces in the same way."""
NEEDED = (KEY, "tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def spiece_in_gguf(path: Path) -> bytes:
    """The serialized SentencePiece model. ValueError, naming the file, if it has no such tokenizer inside."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    names = [name for name in reader.fields if name.startswith("tokenizer.ggml.")]
    fields = {name: reader.fields[name].contents() for name in names}
    if missing := [name for name in NEEDED if name not in fields]:
        raise ValueError(
            f"{path} has no tokenizer of T5 inside ({missing[0]} missing); "
            "give the folder of umT5's tokenizer too, or take a text encoder that has its tokenizer inside"
        )
    return write_spiece(fields)


def write_spiece(fields: Mapping[str, Any]) -> bytes:
    """A SentencePiece model with these GGUF fields."""
    tokens, scores, types = (fields[name] for name in NEEDED)
    pieces = b"".join(
        message(1, message(1, token.encode()) + number(2, score) + count(3, kind))
        for token, score, kind in zip(tokens, scores, types, strict=True)
    )
    ids = {40: "unknown_token_id", 41: "bos_token_id", 42: "eos_token_id", 43: "padding_token_id"}
    trainer = count(3, UNIGRAM) + count(4, len(tokens)) + count(35, int(BYTE in types))
    trainer += b"".join(count(field, int(fields.get(f"tokenizer.ggml.{name}", -1))) for field, name in ids.items())
    charsmap = bytes(bytearray(fields.get("tokenizer.ggml.precompiled_charsmap", b"")))
    normalizer = message(2, charsmap) if charsmap else b""
    normalizer += count(3, int(fields.get("tokenizer.ggml.add_space_prefix", True)))
    normalizer += count(4, int(fields.get("tokenizer.ggml.remove_extra_whitespaces", True))) + count(5, 1)
    return pieces + message(2, trainer) + message(3, normalizer)


def message(field: int, content: bytes) -> bytes:
    """A field of bytes, text or a message of its own, in protobuf's wire format."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: float) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<f", value)


def count(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value % (1 << 64))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
