"""Number: the server's memory while it makes short and long renders to VIDEO: soon after the start, in the second half, and the most.

What a longer sound needs is there from the start: core's AUDIO holds it whole.

usage: COMFYUI_PATH=... python tests/comfy/bench_memory.py [MINUTES ...]     (default: 1 10)
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
from comfy_server import Server, short_prompt

RATE = 16000


def write_speech(path: Path, minutes: float) -> None:
    """Noise that rises and falls, mono 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        random = np.random.default_rng(0)
        for _ in range(round(60 * minutes)):
            loudness = np.abs(np.sin(np.arange(RATE) / RATE * 12))
            file.writeframes((random.standard_normal(RATE) * 3000 * loudness).astype(np.int16).tobytes())


def resident_mb(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def render(server: Server, minutes: float) -> dict:
    write_speech(server.base / "input" / "long.wav", minutes)
    prompt = short_prompt(60 * minutes, seed=round(100 * minutes))
    prompt["2"]["inputs"]["audio"] = "long.wav"
    prompt_id, samples = server.queue(prompt), []
    start = time.monotonic()
    while prompt_id not in server.get(f"/history/{prompt_id}"):
        samples.append(resident_mb(server.process.pid))
        time.sleep(0.5)
    half = samples[len(samples) // 2 :]
    assert server.get(f"/history/{prompt_id}")[prompt_id]["status"]["status_str"] == "success"
    return {
        "minutes": minutes, "seconds": round(time.monotonic() - start), "audio_mb": round(60 * minutes * RATE * 4 / 2**20),
        "tenth_mb": round(samples[len(samples) // 10]), "peak_mb": round(max(samples)),
        "second_half_mb": (round(min(half)), round(max(half))),
    }  # fmt: skip


def main(minutes: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "base") as server:
        server.run(short_prompt(2))
        for length in minutes:
            print(render(server, length), flush=True)


if __name__ == "__main__":
    main([float(text) for text in sys.argv[1:]] or [1, 10])
