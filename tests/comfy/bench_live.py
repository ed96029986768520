"""Number: live frames per second that two viewers get, and how long other routes take meanwhile.

A paced stream of 720x416 at 25 frames a second goes through Live Preview in a real server; encoding included.
usage: COMFYUI_PATH=... python tests/comfy/bench_live.py
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
from comfy_server import Server

CHUNKS, NEW_FRAMES = 25, 28
ROUTES = ("/prompt", "/queue", "/livetalk/live")


async def watch(session: aiohttp.ClientSession, url: str) -> tuple[float, int]:
    """(frames per second, fragments) that one viewer gets, from its first fragment to its last."""
    times = []
    async with session.ws_connect(url, max_msg_size=0) as socket:
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT and json.loads(message.data).get("number", 0) > 0:
                times.append(time.perf_counter())
    arrivals = times[:CHUNKS]
    return (len(arrivals) - 1) * NEW_FRAMES / (arrivals[-1] - arrivals[0]), len(arrivals)


async def measure(server: Server) -> dict:
    size = {"width": 720, "height": 416, "num_chunks": CHUNKS}
    prompt = {
        "1": {"class_type": "LiveTalkTestPacer", "inputs": size},
        "2": {"class_type": "LiveTalkLivePreview", "inputs": {"stream": ["1", 0]}},
    }
    latencies = {route: [] for route in ROUTES}
    async with aiohttp.ClientSession(server.url) as session:
        server.queue(prompt)
        while not (channels := await (await session.get("/livetalk/live")).json()):
            await asyncio.sleep(0.05)
        viewers = asyncio.gather(*(watch(session, f"/livetalk/live/{channels[0]['channel']}") for _ in range(2)))
        while not viewers.done():
            for route in ROUTES:
                start = time.perf_counter()
                await (await session.get(route)).read()
                latencies[route].append(1000 * (time.perf_counter() - start))
            await asyncio.sleep(0.05)
        rates = await viewers
    numbers = {route: {"median_ms": statistics.median(ms), "p99_ms": sorted(ms)[int(0.99 * len(ms))]} for route, ms in latencies.items()}
    return {"viewers": [{"fps": fps, "fragments": count} for fps, count in rates], "routes": numbers}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "base", (Path(__file__).parent / "pacer",)) as server:
        print(json.dumps(asyncio.run(measure(server)), indent=1))


if __name__ == "__main__":
    main()
