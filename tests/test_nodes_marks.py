"""The pack's videos are signed, also when ComfyUI saves them with its workflow, and marked if the environment asks for it."""

import json
import logging
import shutil

import av
import numpy as np
import pytest
import torch

from livetalk_core.media.video import read_frames
from livetalk_core.provenance.inspection import inspect_video

RATE = 16000


@pytest.fixture
def stream(nodes, host, monkeypatch):
    """A function that makes a stream of a gray picture and half a second of silence on the toy model."""
    (host.folder / "temp").mkdir()
    parts = nodes.NODES and __import__("importlib").import_module(f"{nodes.__name__}.stream")
    engines, speech = parts.engines, parts.Speech
    from livetalk_core.engine.load import load_engine
    from livetalk_core.types import StreamSettings

    engine = load_engine("tiny", device="cpu")
    monkeypatch.setattr(engines, "engine_for", lambda spec: engine)

    def make():
        sound = speech(waveforms=(torch.zeros(1, RATE // 2),), sample_rates=(RATE,), loudness=True)
        reference = engine.reference(torch.zeros(3, 64, 96))
        return parts.TalkStream(spec=engines.EngineSpec(), reference=reference, speech=sound, settings=StreamSettings(steps=1))

    parts.marks.marking.cache_clear()
    yield make
    parts.marks.marking.cache_clear()


def test_a_video_is_signed_in_the_temporary_folder_and_when_it_is_saved(stream, nodes, host):
    video = nodes.decode.video_of(stream(), None)
    kept = inspect_video(video.path, frames=0).credentials
    assert kept.state == "valid" and kept.details["model"] == "nano" and "8-bit RGB pixels" in kept.details["hashes"]
    video.save_to(str(host.folder / "saved.mp4"), metadata={"workflow": json.dumps({"id": "a workflow"})})
    found = inspect_video(host.folder / "saved.mp4", frames=0)
    assert found.credentials.state == "valid" and found.own and found.credentials.details["picture"] == kept.details["picture"]
    with av.open(str(host.folder / "saved.mp4")) as file:
        assert json.loads(file.metadata["workflow"]) == {"id": "a workflow"}
    assert sorted(path.name for path in host.folder.iterdir()) == ["saved.mp4", "temp"]


def test_the_workflow_is_covered_by_the_signature(stream, nodes, host):
    video = nodes.decode.video_of(stream(), None)
    video.save_to(str(host.folder / "saved.mp4"), metadata={"workflow": "AAAAAAAA"})
    data = (host.folder / "saved.mp4").read_bytes()
    assert data.count(b"AAAAAAAA") == 1
    (host.folder / "saved.mp4").write_bytes(data.replace(b"AAAAAAAA", b"AAAAAAAB"))
    assert inspect_video(host.folder / "saved.mp4", frames=0).credentials.state == "altered"


def test_other_containers_are_saved_without_and_the_log_says_so(stream, nodes, host, caplog):
    video = nodes.decode.video_of(stream(), None)
    with caplog.at_level(logging.WARNING):
        video.save_to(str(host.folder / "saved.mkv"))
    assert "saved.mkv gets no Content Credentials; only .mp4 files do" in caplog.text and (host.folder / "saved.mkv").exists()


def test_what_cannot_be_signed_is_saved(stream, nodes, host, caplog):
    video = nodes.decode.video_of(stream(), None)

    def fail(source, sink):
        shutil.copy(source, sink)
        raise OSError(28, "No space left on device")

    video.seal = fail
    with caplog.at_level(logging.WARNING):
        video.save_to(str(host.folder / "saved.mp4"))
    assert "saved.mp4 has no Content Credentials" in caplog.text and "No space left" in caplog.text
    assert inspect_video(host.folder / "saved.mp4", frames=0).credentials.state == "none"
    assert not list(host.folder.glob(".*"))


def test_the_environment_turns_credentials_off_and_the_watermark_on(stream, nodes, monkeypatch):
    monkeypatch.setenv("LIVETALK_CREDENTIALS", "off")
    plain, other = stream(), stream()
    video = nodes.decode.video_of(plain, None)
    assert type(video).__name__ != "SignedVideo" and inspect_video(video.path, frames=0).credentials.state == "none"
    monkeypatch.setenv("LIVETALK_WATERMARK", "on")
    __import__("sys").modules[f"{nodes.__name__}.marks"].marking.cache_clear()
    marked = nodes.decode.video_of(other, None)
    a, b = (np.stack(list(read_frames(each.path))).astype(int) for each in (video, marked))
    assert 0.3 < np.abs(a - b).mean() < 4
    images = nodes.decode.images_of(other.film())
    assert torch.equal(images, nodes.decode.images_of(other.film())), "every reader gets the same marked frames"
    assert not torch.equal(images, nodes.decode.images_of(plain.film()))
