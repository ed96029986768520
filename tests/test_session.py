"""A chunk leaves in pieces: in order, early, the same pixels as in one, and nothing is done that no frame needs."""

import pytest
import torch
from made import pixels, speech_like
from test_engine import frames_of, talk

from livetalk_core.stream import session as module
from livetalk_core.stream.host_copy import HostCopy
from livetalk_core.types import StreamSettings


class Log:
    """A VAE that notes what is asked of it."""

    def __init__(self, vae, notes):
        self.vae, self.notes = vae, notes
        self.temporal_stride, self.spatial_stride = vae.temporal_stride, vae.spatial_stride

    def decode(self, latents_CTHW, groups=()):
        for piece_CTHW in self.vae.decode(latents_CTHW, groups):
            self.notes.append(f"decoded {piece_CTHW.shape[1]}")
            yield piece_CTHW

    def encode(self, video_CTHW, groups=()):
        self.notes.append(f"encoded {video_CTHW.shape[1]}")
        return self.vae.encode(video_CTHW, groups)


@pytest.fixture
def noted(engine):
    """A stream and what its VAE, and whoever reads it, did."""
    stream, notes = engine.open(engine.reference(pixels()), StreamSettings(steps=1)), []
    stream.session.vae, stream.session.motion_apart = Log(stream.session.vae, notes), False
    return stream, notes


def read(chunks, notes):
    for chunk in chunks:
        notes.append(f"got {len(chunk.frames_THWC)}")


@pytest.mark.parametrize("groups", [(9,), (1, 4), (2, 1, 2, 4), (1,)])
def test_the_pieces_together_are_what_any_other_way_to_decode_gives(engine, monkeypatch, groups):
    pieces = frames_of(talk(engine, 2.5))
    monkeypatch.setattr(module, "DECODE_GROUPS", groups)
    apart = (frames_of(talk(engine, 2.5)).int() - pieces.int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.001, "rounding, where a sum's order changed"


def test_a_piece_leaves_before_the_next_is_decoded_and_motion_comes_after_the_last(noted):
    stream, notes = noted
    read(stream.push(torch.zeros(17920)), notes)
    assert notes == ["decoded 9", "got 4", "decoded 12", "got 12", "decoded 12", "got 12", "encoded 5"]


@pytest.mark.parametrize(("frames", "done"), [(3, 1), (4, 1), (5, 2), (16, 2), (27, 3)])
def test_in_the_last_chunk_nothing_is_made_beyond_its_frames(noted, frames, done):
    stream, notes = noted
    read(stream.finish(frames), notes)
    assert sum(int(note.split()[1]) for note in notes if note.startswith("got")) == frames
    assert [note.split()[0] for note in notes if not note.startswith("got")] == ["decoded"] * done


def test_what_a_reader_leaves_comes_with_the_next_call(engine):
    sound = torch.from_numpy(speech_like(2.24))
    stream = engine.open(engine.reference(pixels()), StreamSettings())
    chunks = [next(stream.push(sound[:17920])), next(stream.push(sound[17920:30000])), *stream.push(sound[30000:]), *stream.finish()]
    assert [chunk.first_frame for chunk in chunks] == [0, 4, 16, 28, 32, 44]
    assert torch.equal(frames_of(chunks), frames_of(talk(engine, 2.24)))


def test_another_stream_may_have_its_turn_between_two_pieces(engine):
    reference = engine.reference(pixels())
    slow = engine.open(reference, StreamSettings()).push(torch.from_numpy(speech_like(1.12)))
    chunks = [next(slow)]
    assert not engine.turn.locked()
    other = talk(engine, 1.12, seed=3)
    assert torch.equal(frames_of([*chunks, *slow]), frames_of(talk(engine, 1.12)))
    assert torch.equal(frames_of(other), frames_of(talk(engine, 1.12, seed=3)))


def test_where_the_device_works_beside_the_host_one_piece_is_launched_ahead(noted):
    """As on CUDA: the copy of a piece is waited for when the work after it is on its way."""
    stream, notes = noted

    class Beside:
        pieces_ahead = 1

        def send(self, frames_THWC):
            notes.append(f"sent {len(frames_THWC)}")
            return lambda: notes.append(f"waited {len(frames_THWC)}") or frames_THWC

    stream.session.host_copy = Beside()
    read(stream.push(torch.zeros(17920)), notes)
    assert notes == [
        *("decoded 9", "sent 4", "decoded 12", "sent 12", "waited 4", "got 4"),
        *("decoded 12", "sent 12", "waited 12", "got 12", "encoded 5", "waited 12", "got 12"),
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_frames_that_leave_a_gpu_are_whole_and_pinned_though_it_works_on():
    host_copy, left = HostCopy(torch.device("cuda")), []
    for value in range(20):
        frames_THWC = torch.full((12, 416, 720, 3), value, dtype=torch.uint8, device="cuda")
        left.append(host_copy.send(frames_THWC))
        del frames_THWC  # its memory may be taken for the next at once
    for value, arrive in enumerate(left):
        frames_THWC = arrive()
        assert frames_THWC.is_pinned() and (frames_THWC == value).all()
