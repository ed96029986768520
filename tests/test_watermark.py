"""The watermark: there after H.264, scaling, cropping and another frame rate; not there where none was put; invisible."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from livetalk_core.cli.options import ASSETS
from livetalk_core.media.encode import EXACT, FULL, configure_h264, to_yuv
from livetalk_core.provenance import detect
from livetalk_core.provenance.detect import find_mark
from livetalk_core.provenance.pattern import BYTES, TILE, WORD, code, signs_of, tile_of, waves
from livetalk_core.provenance.watermark import Watermark, new_id

ID = 0xC0FFEE42


def film(width: int, height: int, frames: int = 6) -> np.ndarray:
    """The sample portrait before a still camera; its middle moves: uint8 [T, H, W, 3]."""
    side = max(width, height)
    whole = np.asarray(Image.open(ASSETS / "drawn.png").convert("RGB").resize((side, side), Image.LANCZOS))
    top, left = (side - height) // 2, (side - width) // 2
    film_THWC = np.repeat(whole[None, top : top + height, left : left + width], frames, axis=0)
    rows, columns = slice(height // 3, 2 * height // 3), slice(width // 3, 2 * width // 3)
    for k in range(frames):
        film_THWC[k, rows, columns] = np.roll(film_THWC[0], 2 * k, axis=1)[rows, columns]
    return film_THWC


def coded(frames_THWC: np.ndarray, crf: int, fps: int = 25) -> np.ndarray:
    """H.264 there and back, with B-frames, as a video service would."""
    file, (height, width) = io.BytesIO(), frames_THWC.shape[1:3]
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
        configure_h264(stream.codec_context, width, height, Fraction(fps))
        stream.codec_context.max_b_frames = 2
        for index, frame_HWC in enumerate(frames_THWC):
            frame = to_yuv(frame_HWC)
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        shown = [frame.reformat(format="rgb24", dst_color_range=FULL, interpolation=EXACT) for frame in container.decode(video=0)]
    return np.stack([frame.to_ndarray() for frame in shown])


def scaled(frames_THWC: np.ndarray, share: float) -> np.ndarray:
    height, width = (round(side * share / 2) * 2 for side in frames_THWC.shape[1:3])
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), Image.BICUBIC)) for frame in frames_THWC])


@pytest.fixture(scope="module")
def marked() -> np.ndarray:
    return coded(Watermark(ID)(film(384, 576)).numpy(), 18)


@pytest.mark.parametrize(
    "change, scale",
    [
        (lambda frames: frames, 1.0),
        (lambda frames: coded(frames, 23), 1.0),
        (lambda frames: coded(frames, 28), 1.0),
        (lambda frames: coded(scaled(frames, 0.75), 23), 0.75),
        (lambda frames: coded(frames[:, 25:543, 17:363], 23), 1.0),
        (lambda frames: coded(frames[::2], 23, 24), 1.0),
        (lambda frames: scaled(frames, 1.5)[:2], 1.5),
    ],
    ids=["as written", "crf 23", "crf 28", "75 %", "cropped", "24 fps", "150 %"],
)
def test_the_id_is_read_after(marked, change, scale):
    found = find_mark(change(marked))
    assert found.there and found.readable and found.mark_id == ID
    assert abs(found.scale / scale - 1) < 0.004
    assert found.false_find < 1e-8


def test_nothing_is_found_where_there_is_no_mark():
    for frames in (coded(film(384, 576), 23), np.zeros((1, 64, 96, 3), np.uint8), checkered(), np.full((1, 20, 20, 3), 200, np.uint8)):
        found = find_mark(frames)
        assert not found.there and not found.readable and found.false_find > 0.01


def checkered() -> np.ndarray:
    """A picture with the tile's own period."""
    y, x = np.mgrid[:384, :384]
    return (((y // 32 + x // 32) % 2) * 200).astype(np.uint8)[None, ..., None].repeat(3, axis=3)


def test_another_key_finds_nothing(marked, monkeypatch):
    monkeypatch.setattr("livetalk_core.provenance.pattern.KEY", b"another")
    waves.cache_clear()
    try:
        assert not find_mark(marked).there
    finally:
        monkeypatch.undo()
        waves.cache_clear()


def test_an_agreement_is_normal_without_a_mark(monkeypatch):
    """What the bound of the false finds rests on: over random keys, a wave's agreement has mean 0 and mean square 1 / 2."""
    of, detail = waves(), detect.average_detail(film(256, 256, 1))
    wave_K = detect.transform(detail, 1.0, 1.0)[of.down_K, of.right_K]
    angle_K = wave_K / np.abs(wave_K)
    keys = np.exp(2j * np.pi * np.random.default_rng(0).random((4000, len(of.phase_K))))
    z = (keys @ angle_K).real / np.sqrt(len(of.phase_K) / 2)
    assert abs(z.mean()) < 0.06 and abs(z.std() - 1) < 0.04
    assert all((z > level).mean() <= np.exp(-(level**2) / 2) for level in (0.5, 1.0, 2.0, 3.0))


@pytest.mark.parametrize("size", [(128, 128), (416, 720), (720, 416), (544, 544), (64, 66)])
def test_the_mark_is_weak_everywhere(size):
    noisy = np.random.default_rng(0).integers(0, 256, (1, size[1], size[0], 3), dtype=np.uint8)
    for frames in (film(*size, 1), np.full_like(noisy, 128), noisy):
        change = Watermark(ID)(frames).numpy().astype(float) - frames
        assert 10 * np.log10(255**2 / np.square(change).mean()) >= 38
        assert np.abs(change).max() > 0


def test_a_mark_is_the_same_however_the_frames_are_cut_into_pieces():
    frames = torch.from_numpy(film(128, 96, 5))
    whole = Watermark(ID)(frames)
    mark = Watermark(ID)
    assert torch.equal(torch.cat([mark(frames[:1]), mark(frames[1:4]), mark(frames[4:])]), whole)
    assert not torch.equal(Watermark(ID ^ 1)(frames), whole) and whole.dtype == torch.uint8


def test_every_byte_survives_31_wrong_signs():
    words = np.concatenate([code(), -code()]).astype(int)
    agreement = words @ words.T
    assert (agreement[~np.eye(256, dtype=bool)] <= 0).all(), "two words differ in 64 signs or more"
    signs = signs_of(ID).reshape(BYTES, WORD).astype(float)
    for byte in signs:
        byte[np.random.default_rng(1).choice(WORD, 31, replace=False)] *= -1
    agreement_K = np.concatenate([np.ones(waves().num_sync), signs.ravel()])
    assert detect.read_id(detect.Measured(scale_down=1, scale_right=1, z=9, agreement_K=agreement_K))[0] == ID


def test_the_pattern_never_changes():
    """A change here would make every mark that is out there unreadable."""
    of = waves()
    assert (len(of.phase_K), of.num_sync) == (876, 364)
    assert (of.down_K[:3].tolist(), of.right_K[:3].tolist()) == FIRST
    assert np.allclose(np.angle(of.phase_K[:3]), FIRST_PHASES, atol=1e-6)
    tile = tile_of(ID)
    assert tile.shape == (TILE, TILE) and abs(float(tile.mean())) < 1e-6 and abs(float(tile.std()) - 1) < 1e-5


FIRST = ([8, 17, 13], [19, 19, 4])
FIRST_PHASES = [-0.180501, 2.033816, 1.695792]


def test_ids_are_random():
    assert len({new_id() for _ in range(50)}) == 50 and all(0 <= new_id() < 2**32 for _ in range(50))


def test_no_frames_are_told():
    with pytest.raises(ValueError, match="0 frames were given"):
        find_mark([])
