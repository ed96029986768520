"""livetalk live: the service with a page to try it on."""

from __future__ import annotations

import argparse
from functools import partial
from urllib.parse import quote, urlsplit

from livetalk_core.cli.serve import add_serve, check_installed, first_size, run, token_of

SERVICE_CORES = 1
"""Left to the service, its encoders and a browser on this machine: where they interrupt one of the model's threads, the others wait."""


def add_live(sub: argparse.ArgumentParser) -> None:
    add_serve(sub)


def run_live(options: argparse.Namespace) -> int:
    """Serve, and print the page's address. Without a GPU, one process on the CPU makes the video, and only the first size is warmed."""
    check_installed("live")
    import torch

    if options.workers is None and options.gpus == 1 and not torch.cuda.is_available():
        options.workers = 1
    on_cpu = options.workers is not None
    warm = first_size if on_cpu else None  # on a CPU, a size that comes later only takes longer once
    ready = partial(ready_line, token_of(options))
    return run(options, ready, warm, spare_cores=SERVICE_CORES if on_cpu else 0)


def ready_line(token: str, talk: str) -> str:
    return f"livetalk: open {page_address(talk, token)}"


def page_address(talk: str, token: str) -> str:
    """The page's address, which a browser on this machine can open, from that of /talk."""
    parts = urlsplit(talk)
    host = "localhost" if parts.hostname in ("0.0.0.0", "::", "127.0.0.1") else parts.hostname
    query = f"?token={quote(token, safe='')}" if token else ""
    return f"{parts.scheme.replace('ws', 'http')}://{host}:{parts.port}/{query}"
