"""Sound to lips in a real browser: python tests/bench_live_delay.py [--chunk-frames 17] [--seconds 120] [--json FILE]

`nano` in one worker, the service in this process, Chromium with a WAV as its microphone; the picture that WebRTC brings is read back from
the page. Environment: PLAYWRIGHT_CORE, that package's folder. Everything runs on one machine, so all times are of one clock.
An utterance is timed from its first loud sample in the page to the first frame on the page whose mouth is open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
import wave
from pathlib import Path

import numpy as np

import livetalk_core
from livetalk_core.cli.live import SERVICE_CORES
from livetalk_core.media.audio import read_audio
from livetalk_core.open import EngineOptions, open_pool
from livetalk_core.serve.ear import Ear
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.server import listening
from livetalk_core.serve.service import Service
from livetalk_core.serve.session import LiveSession

HERE, ASSETS = Path(__file__).parent, Path(livetalk_core.__file__).parent / "assets"
MOUTH = (48, 79, 32, 16)
"""x, y, width, height in the sample portrait at 128x128."""
OPEN = 4.0
"""Percent of dark pixels in the mouth's region from which it counts as open; 1.2 when it is closed."""
RATE, SPEECH_S, PERIOD_S = 48000, 2.6, 6.37


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunk-frames", type=int, default=33)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--spare-cores", type=int, default=SERVICE_CORES, help="cores left to service and browser")
    parser.add_argument("--flag", action="append", default=[], help="of Chromium, such as --flag=--disable-gpu")
    given = parser.parse_args()
    notes, seen = asyncio.run(measure(given.chunk_frames, given.seconds, given.flag, given.spare_cores))
    if given.json:
        given.json.write_text(json.dumps({"notes": notes, "seen": seen}))
    report(notes, seen)


async def measure(chunk_frames: int, seconds: float, flags: list[str], spare_cores: int) -> tuple[dict[str, list], dict]:
    """What was noted in the server, and seen in the browser."""
    notes = take_notes()
    pool = open_pool(EngineOptions(model="nano", workers=1, chunk_frames=chunk_frames), print, spare_cores=spare_cores)
    service = Service([pool], ClientLimits(), warm_sizes=((128, 128),))
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "microphone.wav"
        write_microphone(wav)
        async with listening(service, "127.0.0.1", 0) as address:
            page = address.replace("ws", "http", 1).replace("/talk", "/")
            job = json.dumps({"url": page, "wav": str(wav), "seconds": seconds, "mouth": MOUTH, "flags": flags})
            node = await asyncio.create_subprocess_exec("node", str(HERE / "live_delay.cjs"), job, stdout=-1, stderr=-1)
            used = asyncio.ensure_future(watch_cpu(node.pid, os.getpid()))
            out, wrong = await node.communicate()
            notes["cpu"] = await used
    if node.returncode:
        raise SystemExit(wrong.decode())
    return notes, json.loads(out)


async def watch_cpu(browser: int, service: int) -> list[list[float]]:
    """Seconds of the clock, and CPU seconds of the browser, of the service and of its worker, again and again until the browser is gone."""
    seen = []
    while read(Path(f"/proc/{browser}/stat")).rpartition(") ")[2][:1] not in ("", "Z"):
        at = cpu_seconds(browser)
        seen.append([time.time(), at, own_cpu(service), cpu_seconds(service) - at - own_cpu(service)])
        await asyncio.sleep(1)
    return seen


def cpu_seconds(pid: int) -> float:
    """Of a process and its living descendants."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in read(task).split()]
    return own_cpu(pid) + sum(cpu_seconds(child) for child in children)


def own_cpu(pid: int) -> float:
    words = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK") if words else 0.0


def read(path: Path) -> str:
    """Empty for a process that has just gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def write_microphone(path: Path) -> None:
    """Speech that begins at once, and a pause with faint noise. Chromium plays it again and again."""
    sound_N = np.concatenate(list(read_audio(ASSETS / "speech.flac", rate=RATE)))
    sound_N = sound_N[np.argmax(np.abs(sound_N) > 0.05) :][: round(SPEECH_S * RATE)]
    noise_N = np.random.default_rng(0).normal(0, 0.0005, round((PERIOD_S - SPEECH_S) * RATE))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.concatenate([sound_N, noise_N]).clip(-1, 1) * 32767).astype("<i2").tobytes())


def take_notes() -> dict[str, list]:
    """Lets the classes of the service note when each stage is passed, in seconds of the wall clock."""
    notes: dict[str, list] = {"heard": [], "said": [], "begun": [], "made": [], "shown": []}
    hear, say, order, add, tick = Ear.hear, LiveSession.say, LiveSession.order, LiveSession.add, LiveSession.tick

    def heard(self, data):
        notes["heard"].append((time.time(), float(np.abs(np.frombuffer(data, "<f4")).max(initial=0))))
        return hear(self, data)

    def said(self, samples_N):
        notes["said"].append((time.time(), len(samples_N)))
        say(self, samples_N)

    def ordered(self):
        given = order(self)
        notes["begun"].append((time.time(), not given.idle, len(self.timeline.waiting)))
        return given

    def added(self, given, frames):
        notes["made"].append((time.time(), not given.idle, len(frames)))
        add(self, given, frames)

    def ticked(self):
        shot = tick(self)
        x, y, width, height = MOUTH
        dark = float((shot.frame_HWC[y : y + height, x : x + width].mean(axis=-1) < 70).mean() * 100)
        notes["shown"].append((time.time(), shot.speaking, dark, shot.held))
        return shot

    Ear.hear, LiveSession.say, LiveSession.order, LiveSession.add, LiveSession.tick = heard, said, ordered, added, ticked
    return notes


def report(notes: dict[str, list], seen: dict) -> None:
    spoke = onsets(seen)
    lips = [t / 1000 for t, _, _, dark in seen["frames"] if dark >= OPEN]
    server_lips = [t for t, speaking, dark, _ in notes["shown"] if speaking and dark >= OPEN]
    rows = []
    for begin, end in zip(spoke, [*spoke[1:], spoke[-1] + PERIOD_S], strict=True):
        stages = {
            "server hears it": after(begin, end, [t for t, loud in notes["heard"] if loud > 0.02]),
            "voice noticed": after(begin, end, [t for t, _ in notes["said"]]),
            "chunk begun": after(begin, end, [t for t, speaks, _ in notes["begun"] if speaks]),
            "first piece made": after(begin, end, [t for t, speaks, _ in notes["made"] if speaks]),
            "first frame of speech shown": after(begin, end, [t for t, speaks, *_ in notes["shown"] if speaks]),
            "open mouth shown": after(begin, end, server_lips),
            "open mouth in the browser": after(begin, end, lips),
        }
        rows.append([np.nan if at is None else at - begin for at in stages.values()])
    rows = np.array(rows)
    print(f"utterances {len(rows)}, way {seen['way']}, errors {seen['errors']}; since the first loud sample, in s: median, 95 %")
    for name, times in zip(stages, rows.T, strict=True):
        print(f"  {name:28s} {np.nanmedian(times):6.3f} {np.nanpercentile(times, 95):6.3f}")
    tell_browser(notes, seen)


def onsets(seen: dict) -> list[float]:
    """When utterances began in the page: the first loud sample after a second without any."""
    begins, last = [], 0.0
    for sent_ms, length, first in seen["sent"]:
        if first < 0:
            continue
        if sent_ms / 1000 - last > 1:
            begins.append(sent_ms / 1000 - (length - first) / RATE)
        last = sent_ms / 1000
    return [begin for begin in begins[1:] if begin + PERIOD_S < last]  # the first is cut where the microphone was opened


def after(begin: float, end: float, times: list[float]) -> float | None:
    return next((t for t in times if begin < t < end), None)


def tell_browser(notes: dict[str, list], seen: dict) -> None:
    first, last = np.array(notes["cpu"])[[len(notes["cpu"]) // 3, -2]]
    shares = (last - first)[1:] / (last - first)[0]
    print("cores used: browser {:.2f}, service {:.2f}, worker {:.2f}".format(*shares))
    held = sum(held for *_, held in notes["shown"])
    made_s = [t for t, speaks, _ in notes["begun"]]
    print(f"frames taken {len(notes['shown'])}, held {held}; on the page {len(seen['frames'])}; chunks {len(made_s)}")
    shown = np.array([frame[0] - frame[1] for frame in seen["frames"]])
    print(f"browser, frame received to shown: median {np.median(shown):.0f} ms, 95 % {np.percentile(shown, 95):.0f}")
    both = [said for said in seen["stats"] if {"video", "audio"} <= said.keys() and all(
        said[kind].get("estimatedPlayoutTimestamp") for kind in ("video", "audio"))]  # fmt: skip
    parted = np.array([said["video"]["estimatedPlayoutTimestamp"] - said["audio"]["estimatedPlayoutTimestamp"] for said in both])
    if len(parted):
        print(f"picture before sound, by the browser's own clock: median {np.median(parted):.0f} ms, 5 to 95 % "
              f"{np.percentile(parted, 5):.0f} to {np.percentile(parted, 95):.0f}, of {len(parted)} s")  # fmt: skip
    for kind, said in (seen["stats"][-1] if seen["stats"] else {}).items():
        waited = said["jitterBufferDelay"] / max(1, said["jitterBufferEmittedCount"])
        print(f"{kind}: jitter buffer {1000 * waited:.0f} ms, " + ", ".join(f"{name} {value}" for name, value in said.items() if value))


if __name__ == "__main__":
    main()
