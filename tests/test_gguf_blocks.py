"""GGUF's quantized types, unpacked with torch, against the gguf package's own numbers."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from livetalk_core.models.gguf_blocks import BLOCKS, unpack_blocks

SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108]} | {
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
"""Where each block has float16 numbers; all other bytes may be anything."""


def random_rows(kind: str, num_rows: int = 3, num_blocks: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    size = BLOCKS[kind][1]
    blocks = rng.integers(0, 256, (num_rows * num_blocks, size), dtype=np.uint8)
    for place in SCALES[kind]:
        blocks[:, place : place + 2] = rng.normal(size=(len(blocks), 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(num_rows, num_blocks * size)


@pytest.mark.parametrize("kind", BLOCKS)
def test_unpacked_numbers_are_the_packages_to_the_bit(kind):
    rows, known = random_rows(kind), GGMLQuantizationType[kind]
    assert GGML_QUANT_SIZES[known] == BLOCKS[kind]
    expected = quants.dequantize(rows, known)
    found = unpack_blocks(kind, torch.from_numpy(rows).view(torch.int8))
    assert found.dtype == torch.float32 and np.array_equal(found.numpy(), expected)
    rows[0, -20] ^= 0x55
    assert not np.array_equal(quants.dequantize(rows, known), expected), "control: every byte counts"


def test_a_compiled_form_gives_the_same_numbers():
    rows = torch.from_numpy(random_rows("Q6_K")).view(torch.int8)
    compiled = torch.compile(unpack_blocks, fullgraph=True, backend="eager")
    assert torch.equal(compiled("Q6_K", rows), unpack_blocks("Q6_K", rows))
