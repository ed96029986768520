"""livetalk live: the service with a page to try it on."""

from __future__ import annotations

import argparse
from urllib.parse import quote, urlsplit

from livetalk_core.cli.serve import add_serve, check_installed, first_size, run, token_of


def add_live(sub: argparse.ArgumentParser) -> None:
    add_serve(sub)


def run_live(options: argparse.Namespace) -> int:
    """Serve, and print the page's address. Without a GPU, one process on the CPU makes the video, and only the first size is warmed."""
    check_installed("live")
    import torch

    if options.workers is None and options.gpus == 1 and not torch.cuda.is_available():
        options.workers = 1
    warm = first_size if options.workers is not None else None  # on a CPU, a size that comes later only takes longer once
    return run(options, lambda address: f"livetalk: open {page_address(address, token_of(options))}", warm)


def page_address(talk: str, token: str) -> str:
    """The page's address, which a browser on this machine can open, from that of /talk."""
    parts = urlsplit(talk)
    host = "localhost" if parts.hostname in ("0.0.0.0", "::", "127.0.0.1") else parts.hostname
    query = f"?token={quote(token, safe='')}" if token else ""
    return f"{parts.scheme.replace('ws', 'http')}://{host}:{parts.port}/{query}"
