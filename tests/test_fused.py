"""The compiled form's count, against graphs whose fused form is known."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from livetalk_core.bench.compiled_form import fuse_block, fuse_decode
from livetalk_core.bench.fused import Fused, fuse, fuse_pieces
from livetalk_core.presets import tiny


def test_what_goes_element_by_element_is_one_loop_that_reads_and_writes_once():
    x = torch.ones(6, 8)
    assert fuse(lambda: ((x * 2 + 1).relu() - x).exp()) == Fused(loops=1, calls=0, loop_bytes=2 * 4 * 48)


def test_products_attention_and_convolutions_are_calls():
    x, w = torch.ones(1, 2, 8, 8), torch.ones(4, 2, 3, 3)
    work = fuse(lambda: (x[0, 0] @ x[0, 1] + 1, torch.nn.functional.scaled_dot_product_attention(x, x, x)))
    assert (work.loops, work.calls, work.ops) == (1, 2, 3)
    assert fuse(lambda: torch.nn.functional.conv2d(x, w)).calls == 1


def test_nothing_is_computed_and_sizes_are_the_real_ones():
    with FakeTensorMode():
        x = torch.ones(1 << 20, 1 << 20)
        assert fuse(lambda: x + 1).loop_bytes == 2 * 4 << 40


def test_a_graph_that_breaks_is_no_graph():
    x = torch.ones(3)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        fuse(lambda: torch._dynamo.graph_break() or x + 1)


def test_each_piece_is_counted_with_what_those_before_have_left():
    seen = []

    def run(piece, past):
        out = piece + past["last"] if "last" in past else piece * 2
        past["last"] = piece + 1
        seen.append(len(past))
        return out

    pieces = fuse_pieces(run, [torch.ones(4), torch.ones(4)])
    assert pieces[1].loop_bytes > pieces[0].loop_bytes


def test_a_block_compiled_is_at_most_40_operations_whatever_its_width():
    block = fuse_block(tiny(), (64, 48), torch.float32)
    assert block.ops <= 40 and block.calls == 13, "8 products, 2 of the sound, 3 attentions"


@pytest.mark.slow
def test_a_decode_is_counted_piece_by_piece():
    first, *rest = fuse_decode(tiny(), (64, 48), torch.float32)
    assert len({piece.ops for piece in rest}) == 1 and first.ops > rest[0].ops
