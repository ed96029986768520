"""A real ComfyUI on the CPU with the pack linked in, driven over HTTP.

Environment: COMFYUI_PATH, a checkout of ComfyUI; COMFYUI_PYTHON, a Python that has its requirements and ours (default: this one);
COMFYUI_OPTIONS, more options for the server, such as --front-end-root DIR.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = ROOT / "workflows" / "api"


class Server:
    """One server process and its base folder. A context manager."""

    def __init__(self, base: Path, extra_packs: tuple[Path, ...] = ()) -> None:
        self.base, self.log_path = base, base / "server.log"
        for name in ("custom_nodes", "input", "output", "temp", "models", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        for name, pack in {"livetalk": ROOT, **{pack.name: pack for pack in extra_packs}}.items():
            (base / "custom_nodes" / name).symlink_to(pack)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        python = os.environ.get("COMFYUI_PYTHON", sys.executable)
        options = ["--cpu", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base), "--disable-auto-launch"]
        options += os.environ.get("COMFYUI_OPTIONS", "").split()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "main.py", *options, "--database-url", "sqlite:///:memory:"],
                cwd=os.environ["COMFYUI_PATH"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self.wait_until_up()
        return self

    def wait_until_up(self, timeout_s: float = 180) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(f"ComfyUI did not come up; its log ends: {self.log()[-2000:]}")

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def count_in_log(self, text: str) -> int:
        return self.log().count(text)

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return json.loads(reply.read())

    def post(self, path: str, value: dict) -> tuple[int, dict]:
        """(status, JSON) of a POST; a refusal is an answer too."""
        request = urllib.request.Request(self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def queue(self, prompt: dict, workflow: dict | None = None) -> str:
        """Queue a prompt in API format, as the page does with its workflow; its id."""
        extra = {"extra_data": {"extra_pnginfo": {"workflow": workflow}}} if workflow else {}
        status, answer = self.post("/prompt", {"prompt": prompt} | extra)
        assert status == 200, answer
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout_s: float = 600) -> dict:
        """The history entry of a prompt, once it is there."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if entry := self.get(f"/history/{prompt_id}").get(prompt_id):
                return entry
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} did not end in {timeout_s} s")

    def run(self, prompt: dict) -> dict:
        return self.wait(self.queue(prompt))

    def wait_for(self, true, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)

    def output(self, entry: dict) -> Path:
        """The one video file that a prompt saved."""
        files = [file for node in entry["outputs"].values() for file in node.get("images", ()) if file["type"] == "output"]
        assert len(files) == 1, entry["outputs"]
        return self.base / "output" / files[0]["subfolder"] / files[0]["filename"]


def failure(entry: dict) -> dict:
    """What ComfyUI reports of a failed or interrupted prompt: node_id, node_type, exception_message."""
    return next(message for kind, message in entry["status"]["messages"] if kind in ("execution_error", "execution_interrupted"))


def workflow(name: str) -> dict:
    """The prompt whose file name has these words."""
    return json.loads(next(path for path in WORKFLOWS.glob("*.json") if name in path.stem).read_text())


def full_graph(seconds: float = 2.5, name: str = "full graph") -> dict:
    """A graph of separate nodes with a part of the long speech: node 6 sound, 7 its part, 3 Audio Embedding."""
    prompt = workflow(name)
    prompt["6"]["inputs"]["audio"] = "livetalk_speech.flac"
    prompt["7"] = {"class_type": "TrimAudioDuration", "inputs": {"audio": ["6", 0], "start_index": 0.0, "duration": seconds}}
    prompt["3"]["inputs"]["audio"] = ["7", 0]
    return prompt


def short_prompt(seconds: float = 0.4, start: float = 0.0, seed: int = 1) -> dict:
    """The quick start, small and short: node 1 picture, 2 sound, 3 its part, 4 Generate, 5 SaveVideo."""
    prompt = workflow("quick start")
    prompt["2"]["inputs"]["audio"] = "livetalk_speech.flac"
    prompt["3"] = {"class_type": "TrimAudioDuration", "inputs": {"audio": ["2", 0], "start_index": start, "duration": seconds}}
    prompt["4"]["inputs"]["audio"] = ["3", 0]
    prompt["4"]["inputs"] |= {"size": "custom", "width": 32, "height": 32, "any_size": True, "steps": 1, "seed": seed}
    return prompt


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
