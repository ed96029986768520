"""Engine and session: chunks follow on, the same seed gives the same bytes, motion is carried, memory stays."""

import gc
import resource
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from made import pixels, speech_like
from torch.utils._python_dispatch import TorchDispatchMode

from livetalk_core.engine import room as module
from livetalk_core.engine.encoders import KeptEncoder
from livetalk_core.engine.load import load_engine
from livetalk_core.stream.flow import seeded_noise
from livetalk_core.stream.host_copy import HostCopy
from livetalk_core.stream.session import Session
from livetalk_core.types import AudioWindow, NoRoom, Reference, StreamSettings


def frames_of(chunks):
    return torch.cat([chunk.frames_THWC for chunk in chunks])


def talk(engine, seconds=2.5, settings=None, cuts=(10**9,), seed=0, reference=None):
    stream = engine.open(reference or engine.reference(pixels()), settings or StreamSettings())
    samples, chunks, start = torch.from_numpy(speech_like(seconds, seed=seed)), [], 0
    for size in cuts:
        chunks += stream.push(samples[start : start + size])
        start += size
    chunks += stream.finish()
    stream.close()
    return chunks


def test_chunks_follow_on_without_gap_or_overlap(engine):
    """In pieces: four frames of a chunk first, then twelve and twelve."""
    chunks = talk(engine, 2.5)
    counts = [4, 12, 12, 4, 12, 12, 4, 3]
    assert [c.index for c in chunks] == [0, 0, 0, 1, 1, 1, 2, 2] and [c.first_frame for c in chunks] == [0, 4, 16, 28, 32, 44, 56, 60]
    assert [len(c.frames_THWC) for c in chunks] == counts and [len(c.samples) for c in chunks] == [640 * n for n in counts]
    assert torch.equal(torch.cat([c.samples for c in chunks])[:40000], torch.from_numpy(speech_like(2.5)))
    assert all(c.frames_THWC.dtype == torch.uint8 and c.frames_THWC.device.type == "cpu" for c in chunks)
    assert set(chunks[0].seconds) == {"audio", "denoise", "decode", "color"} and set(chunks[1].seconds) == {"decode", "color"}
    assert set(chunks[3].seconds) == {"audio", "denoise", "decode", "color", "encode"}, "with the motion latents that it begins with"
    assert all(c.frames_THWC.is_contiguous() for c in chunks)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(engine):
    a, b, c = (frames_of(talk(engine, 1.5, StreamSettings(seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("cuts", [(1, 17919, 5000, 10**9), (640,) * 40 + (10**9,)])
def test_live_input_in_any_pieces_gives_the_same_bytes_as_the_whole(engine, cuts):
    assert torch.equal(frames_of(talk(engine, 2.0)), frames_of(talk(engine, 2.0, cuts=cuts)))


def test_whole_audio_gives_as_many_frames_and_hears_the_future(engine):
    live, whole = (talk(engine, 2.5, StreamSettings(whole_audio=whole)) for whole in (False, True))
    assert [len(c.frames_THWC) for c in whole] == [len(c.frames_THWC) for c in live] == [4, 12, 12, 4, 12, 12, 4, 3]
    assert not torch.equal(frames_of(whole), frames_of(live))


def test_two_streams_of_one_engine_do_not_disturb_each_other(engine):
    alone = frames_of(talk(engine, 2.0, seed=1))
    references = [engine.reference(pixels(seed=seed)) for seed in (0, 1)]
    streams = [engine.open(reference, StreamSettings()) for reference in references]
    sounds = [torch.from_numpy(speech_like(2.0, seed=seed)) for seed in (1, 2)]
    mixed = [[], []]
    for start in range(0, 32000, 8000):
        for i in (0, 1):
            mixed[i] += streams[i].push(sounds[i][start : start + 8000])
    for i in (0, 1):
        mixed[i] += streams[i].finish()
    assert torch.equal(frames_of(mixed[0]), alone)


def test_what_is_said_changes_what_is_seen(engine):
    a, b = (frames_of(talk(engine, 1.0, seed=seed)).float() for seed in (1, 2))
    assert (a - b).abs().mean() > 0.1


def test_colors_are_held_to_the_picture(engine):
    flat = engine.reference(0.3 * pixels() + torch.tensor([0.5, -0.2, -0.4])[:, None, None])
    held, free = (frames_of(talk(engine, 1.0, StreamSettings(color_strength=s), reference=flat)).float() for s in (1.0, 0.0))
    wanted = (flat.pixels_CHW + 1).mean((1, 2)) * 127.5
    assert (held.mean((0, 1, 2)) - wanted).abs().max() < 6
    assert (free.mean((0, 1, 2)) - wanted).abs().max() > 12, "control: without it the colors are elsewhere"


def test_any_size_of_sixteens_works(engine):
    for width, height in ((16, 16), (64, 16), (48, 80)):
        stream = engine.open(engine.reference(pixels(width, height)), StreamSettings(steps=1))
        (chunk,) = stream.finish()
        assert chunk.frames_THWC.shape == (1, height, width, 3)


def test_a_size_that_is_no_multiple_of_sixteen_is_refused(engine):
    with pytest.raises(ValueError, match="width=50 must be a multiple of 16; nearest: 48 or 64"):
        engine.reference(pixels(50, 32))


def test_two_speakers_need_masks_and_then_talk(engine):
    with pytest.raises(ValueError, match="2 speakers need speaker masks"):
        engine.open(engine.reference(pixels()), StreamSettings(), people=2)
    masks = torch.zeros(3, 32, 48)
    masks[0, :, :20], masks[1, :, 28:], masks[2, :, 20:28] = 1, 1, 1
    reference = engine.reference(pixels(), speaker_masks_KHW=masks)
    sound = torch.from_numpy(speech_like(1.0))
    pictures = []
    for voices in ((sound, 0 * sound), (0 * sound, sound)):
        stream = engine.open(reference, StreamSettings(), people=2)
        pictures.append(frames_of([*stream.push(torch.stack(voices)), *stream.finish()]).float())
    assert pictures[0].shape == (25, 32, 48, 3) and (pictures[0] - pictures[1]).abs().mean() > 0.05
    with pytest.raises(ValueError, match="people=3 must be 1 or 2"):
        engine.open(reference, StreamSettings(), people=3)


def test_a_stop_between_steps_comes_at_once_and_leaves_the_engine_good(engine):
    class Stop(BaseException):
        pass

    def stop(step, steps):
        if step == 2:
            raise Stop

    stream = engine.open(engine.reference(pixels()), StreamSettings(), on_step=stop)
    with pytest.raises(Stop):
        list(stream.push(torch.zeros(17920)))
    assert len(frames_of(talk(engine, 1.0))) == 25


def test_the_prompt_is_encoded_once(engine):
    first = engine.reference(pixels(), "someone new").text_LD
    assert engine.reference(pixels(), "someone new").text_LD is first
    assert engine.reference(pixels(), "someone else").text_LD is not first


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": -1}, "seed=-1 must be 0 to 2^63 - 1"),
        ({"steps": 0}, "steps=0 must be 1 or more"),
        ({"shift": 0}, "shift=0 must be above 0"),
        ({"shift": float("nan")}, "shift=nan must be above 0"),
        ({"last_noise": 1.1}, "last_noise=1.1 must be 0 (none) to 1"),
        ({"color_strength": 1.5}, "color_strength=1.5 must be 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError) as error:
        StreamSettings(**change)
    assert message in str(error.value)


def test_tiny_is_the_same_on_every_build():
    a, b = (load_engine("tiny", device="cpu").models.dit.state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_preset_without_weights_says_so():
    with pytest.raises(ValueError, match="no weights of 'livetalk_14b' are in this package; give the folder .* or use nano"):
        load_engine("livetalk_14b")


class Still:
    """A denoiser and VAE in ten lines: the latent is the pixel mean of 16 x 16 blocks, every frame repeated."""

    def __call__(self, x_CTHW, t, reference, window, motion_latents):
        return torch.zeros_like(x_CTHW) + window.features_PTWSD.mean()

    def encode(self, video_CTHW):
        return video_CTHW[:1, ::4, ::16, ::16].repeat(16, 1, 1, 1)

    def decode(self, latents_CTHW, groups=()):
        frames = latents_CTHW[:1].repeat_interleave(4, 1)[:, 3:]
        yield frames.repeat_interleave(16, 2).repeat_interleave(16, 3).repeat(3, 1, 1, 1)


def test_motion_latents_of_a_chunk_are_the_encoded_end_of_the_one_before(engine):
    """With parts whose every number is known: chunk c is flat grey of its sound's level, and begins where c - 1 ended."""
    plan, still = engine.plan(48, 32), Still()
    reference = Reference(
        text_LD=torch.zeros(1, 1), image_LD=torch.zeros(1, 1), cond_CTHW=torch.zeros(20, 9, 2, 3),
        first_CTHW=torch.full((16, 1, 2, 3), 0.9), pixels_CHW=pixels(),
    )  # fmt: skip
    session = Session(
        plan,
        still,
        still,
        reference,
        StreamSettings(steps=4, color_strength=0, shift=5.0, last_noise=1.0),
        seeded_noise((16, 9, 2, 3), 0, torch.device("cpu")),
    )
    for index, level in enumerate((0.2, -0.4)):
        window = AudioWindow(index=index, features_PTWSD=torch.full((1, 33, 5, 1, 1), level), samples=torch.zeros(17920), num_valid=28)
        before = session.motion_CTHW
        (chunk,) = session.step(window)
        assert chunk.frames_THWC.unique().tolist() == [int((level + 1) / 2 * 255)] and len(chunk.frames_THWC) == 28
        assert torch.allclose(session.motion_CTHW, torch.tensor(level)) and not torch.equal(session.motion_CTHW, before)
    assert session.motion_CTHW.shape[1] == 2


class Count(TorchDispatchMode):
    """Counts operations and the elements they give: a chunk's work, without a clock."""

    operations = elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations += 1
        self.elements += result.numel() if isinstance(result, torch.Tensor) else 0
        return result


def test_a_hundred_chunks_take_no_more_memory_and_no_more_work_than_the_first_ones(engine):
    stream = engine.open(engine.reference(pixels(16, 16)), StreamSettings(steps=1))
    sound = torch.from_numpy(speech_like(1.12))
    resident, work = [], []
    for index in range(100):
        with Count() if index in (20, 99) else nullcontext() as count:
            chunk = list(stream.push(sound))
        work += [(count.operations, count.elements)] if count else []
        del chunk
        resident.append(resident_mb())
    gc.collect()
    assert work[0] == work[1] and work[0][0] > 100
    assert resident[-1] - resident[40] < 4, "MB over 60 chunks, each of which passes 2 MB of sound, latents, keys and frames through"


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def test_a_stream_holds_no_audio_keys_between_chunks_nor_after_a_stop(engine):
    stopped = []

    def on_step(step, steps):
        if stopped:
            raise KeyboardInterrupt

    stream = engine.open(engine.reference(pixels()), StreamSettings(steps=2), on_step=on_step)
    denoiser, seen = stream.session.denoiser, []
    stream.session.on_latents = lambda latents_CTHW: seen.append(denoiser.batches[0].audio)
    pieces = stream.push(torch.zeros(17920))
    next(pieces)
    (batch,) = denoiser.batches
    assert seen == [()] and batch.audio == () and denoiser.window is None and batch.context, "before the decode begins"
    list(pieces)
    batch.audio = ("keys",)
    stopped.append(True)
    with pytest.raises(KeyboardInterrupt):
        list(stream.push(torch.zeros(17920)))
    assert batch.audio == ()


def test_all_streams_of_an_engine_absorb_audio_keys_or_none_does(monkeypatch):
    engine = load_engine("tiny", device="cpu")
    reference = engine.reference(pixels())
    monkeypatch.setattr(module, "free_bytes", lambda device: 1 << 40)
    first = engine.open(reference, StreamSettings())
    monkeypatch.setattr(module, "free_bytes", lambda device: module.stream_bytes(engine.preset.dit, engine.dtype))
    second = engine.open(reference, StreamSettings())
    assert [stream.session.denoiser.cuts.absorb_audio for stream in (first, second)] == [True, True]
    poor = load_engine("tiny", device="cpu").open(reference, StreamSettings())
    assert not poor.session.denoiser.cuts.absorb_audio, "control: without memory they are not absorbed"


def test_another_stream_that_does_not_fit_is_refused_and_the_first_goes_on(monkeypatch):
    engine = load_engine("tiny", device="cpu")
    reference = engine.reference(pixels())
    needed = module.stream_bytes(engine.preset.dit, engine.dtype)
    monkeypatch.setattr(module, "free_bytes", lambda device: needed - 1)
    first = engine.open(reference, StreamSettings(steps=1))
    with pytest.raises(NoRoom, match="no memory for another stream: it needs 0.0 GiB free on each GPU; end a stream first"):
        engine.open(reference, StreamSettings(steps=1))
    assert len(list(first.push(torch.zeros(17920)))) == 3
    monkeypatch.setattr(module, "free_bytes", lambda device: needed)
    second = engine.open(reference, StreamSettings(steps=1))
    monkeypatch.setattr(module, "free_bytes", lambda device: 0)
    del first, second
    gc.collect()
    engine.open(reference, StreamSettings(steps=1))


def test_a_streams_memory_is_that_of_its_prompts_and_pictures_keys():
    engine = load_engine("tiny", device="cpu")
    stream = engine.open(engine.reference(pixels(), "more letters than it may have rows"), StreamSettings(steps=1))
    list(stream.push(torch.zeros(17920)))
    keys = [pair for block in stream.session.denoiser.batches[0].context for pair in (block.text, block.image)]
    assert sum(tensor.nbytes for pair in keys for tensor in pair) == module.stream_bytes(engine.preset.dit, engine.dtype)


def test_a_prompt_is_encoded_while_other_streams_get_their_chunks():
    engine, gate, made = load_engine("tiny", device="cpu"), threading.Event(), []
    stream, text = engine.open(engine.reference(pixels()), StreamSettings(steps=1)), engine.models.text
    engine.models = replace(engine.models, text=lambda: gate.wait() and text())
    newcomer = threading.Thread(target=lambda: made.append(engine.reference(pixels(), "someone else")), daemon=True)
    newcomer.start()
    pusher = threading.Thread(target=lambda: made.append(sum(1 for _ in stream.push(torch.zeros(17920)))), daemon=True)
    pusher.start()
    pusher.join(60)
    assert made == [3], "three pieces, and the newcomer still waits for its encoder"
    gate.set()
    newcomer.join()
    assert isinstance(made[1], Reference)


def test_motion_latents_are_decoded_before_the_next_sound_comes_if_nothing_else_is_to_do():
    """The frames are those of one decode in threes."""
    engine = load_engine("tiny", device="cpu")
    reference, sound = engine.reference(pixels()), torch.from_numpy(speech_like(3.36))
    whole, begun = engine.open(reference, StreamSettings()), []
    whole.session.motion_apart = False
    expected = frames_of([*whole.push(sound), *whole.finish()])
    whole.close()
    for beside in (0, 1):
        others = [engine.open(reference, StreamSettings()) for _ in range(beside)]
        stream, chunks = engine.open(reference, StreamSettings()), []
        for part in sound.split(17920):
            chunks += stream.push(part)
            begun.append(stream.session.begun is not None)
        chunks += stream.finish()
        assert torch.equal(frames_of(chunks), expected)
        for each in (*others, stream):
            each.close()
        assert stream.session.begun is None
    assert begun == [True] * 3 + [False] * 3, "alone, and beside another stream, whose chunk may be waiting"


def test_the_next_window_is_made_while_the_device_works_on_the_last_piece(engine, monkeypatch):
    """As on a GPU, where the host is one piece ahead; the frames are the same."""
    sound, events = torch.from_numpy(speech_like(2.24)), []
    expected, reference = frames_of(talk(engine, 2.24)), engine.reference(pixels())
    monkeypatch.setattr(HostCopy, "pieces_ahead", 1)
    stream = engine.open(reference, StreamSettings())
    encode = stream.windows.encode
    stream.windows.encode = lambda samples_N: events.append("window") or encode(samples_N)
    chunks = []
    for chunk in stream.push(sound):
        chunks.append(chunk)
        events.append(chunk.first_frame)
    assert events == ["window", 0, 4, "window", 16, 28, 32, 44]
    assert torch.equal(frames_of([*chunks, *stream.finish()]), expected)


@pytest.mark.parametrize("free_gib, loads", [(24, 1), (12, 2)])
def test_the_picture_encoder_stays_where_memory_is_left(monkeypatch, free_gib, loads):
    count = []
    monkeypatch.setattr("livetalk_core.engine.encoders.free_bytes", lambda device: free_gib << 30)
    keep = KeptEncoder(lambda: count.append(1) or torch.nn.Linear(1, 1), torch.device("cuda"))
    assert (keep() is keep()) == (loads == 1) and len(count) == loads
