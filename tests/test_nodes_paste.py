"""Paste Face Back: the whole picture, with the stream's face in it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import GRAY, small_face
from test_nodes_inputs import sound

from livetalk_core.media.video import probe_video, read_frames

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """[1, 300, 640, 3]: a small face in a wide gray picture."""
    return torch.from_numpy(np.array(small_face()))[None] / 255


def stream_of(nodes, image, crop: str):
    spec = nodes.load.engines.EngineSpec()
    reference = nodes.ReferenceConditioning.execute(spec, image, "", "auto", 0, 0, crop=crop).args[0][0]
    return nodes.sample.make_stream(spec, reference, nodes.audio.speech_from(sound(0.5), None, True), 0, 1, 3.0, 1.0)


def test_the_face_talks_in_the_whole_picture(nodes, image):
    stream = stream_of(nodes, image, "face")
    pasted = nodes.PasteFaceBack.execute(stream, torch.cat([torch.rand(1, 300, 640, 3), image])).args[0]
    assert (pasted.width, pasted.height, pasted.num_frames) == (640, 300, 13)
    assert torch.equal(pasted.picture, image[0])
    small, whole = (torch.cat([chunk.frames_THWC for chunk in each.chunks()]) for each in (stream, pasted))
    assert small.shape == (13, 256, 256, 3) and whole.shape == (13, 300, 640, 3)
    assert (whole[:, :, :380].float() / 255 - torch.tensor(GRAY) / 255).abs().max() < 0.01, "what is far from the face is the picture's own"
    face = whole[:, 90:200, 430:540].float()
    assert (face[1:] - face[:-1]).abs().mean() > 0.1, "and the face moves"
    assert torch.equal(pasted.latents(), stream.latents())


def test_its_video_is_as_large_as_the_picture_and_is_shown_live(nodes, image, host):
    pasted = nodes.PasteFaceBack.execute(stream_of(nodes, image, "auto"), image).args[0]
    nodes.LivePreview.hidden = SimpleNamespace(unique_id="4", extra_pnginfo=None)
    assert nodes.LivePreview.execute(pasted).ui["livetalk_video"]
    found = probe_video(pasted.write())
    assert (found.width, found.height, found.frames) == (640, 300, 13)
    assert len(list(read_frames(pasted.write()))) == 13


def test_its_credentials_say_that_a_part_of_the_picture_was_made(nodes, image):
    pytest.importorskip("c2pa")
    from livetalk_core.provenance.credentials import read_credentials

    stream = stream_of(nodes, image, "face")
    pasted = nodes.PasteFaceBack.execute(stream, image).args[0]
    assert read_credentials(Path(pasted.write())).composite and not read_credentials(Path(stream.write())).composite


@pytest.mark.parametrize("crop, other", [("center", False), ("face", True)])
def test_a_picture_that_the_stream_does_not_show_is_refused(nodes, image, crop, other):
    stream = stream_of(nodes, image, crop)
    picture = image.flip(2) if other else image
    with pytest.raises(ValueError, match="image is not the picture whose face the stream shows; .* set its crop to face"):
        nodes.PasteFaceBack.execute(stream, picture)
