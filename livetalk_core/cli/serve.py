"""livetalk serve."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from livetalk_core.cli.options import add_engine, engine_fields, engine_options, tell
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.sizes import BUCKETS, Size, parse_size

TOKEN_VARIABLE = "LIVETALK_TOKEN"
THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


def add_serve(sub: argparse.ArgumentParser) -> None:
    add_engine(sub, engine_fields(pool=True))
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    sub.add_argument("--port", type=int, default=8765, help="port to listen on, 0 for any free port (default: 8765)")
    sub.add_argument("--pools", type=int, default=1, help="pools with that many workers each (default: 1)")
    sub.add_argument("--box", default="livetalk", metavar="NAME", help="name of this server that clients are told (default: livetalk)")
    sub.add_argument(
        "--token", help=f"secret that clients must send; other users of this machine can read it here, so prefer {TOKEN_VARIABLE}"
    )
    sub.add_argument(
        "--origin", action="append", default=[], help="web page that may connect, as https://name (default: only this server's own)"
    )
    sub.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="another name under which clients reach this server")
    sub.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM; clients then use wss:// and https://")
    sub.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM, unencrypted (default: in the same file)")
    sub.add_argument(
        "--push", default="", metavar="URL", help="also push a live session to this rtmp:// or srt:// address, one session at a time"
    )
    sub.add_argument("--drain-s", type=float, default=30.0, metavar="N", help="seconds for streams to finish after SIGTERM (default: 30)")
    add_engine(sub.add_argument_group("what a client may ask for"), fields(ClientLimits))


def limits_of(given: argparse.Namespace) -> ClientLimits:
    """The client limits from the arguments."""
    named = {field.name: vars(given)[field.name] for field in fields(ClientLimits)}
    return ClientLimits(**named | {"allow_size": tuple(given.allow_size)})


def run_serve(options: argparse.Namespace) -> int:
    check_installed("serve")
    from livetalk_core.serve.server import ready_line

    return run(options, ready_line)


def check_installed(extra: str) -> None:
    """ValueError if a package that the service needs is missing. `extra`: the one of ours that brings it."""
    for name in ("aiohttp", "prometheus_client"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{extra} needs {name}, which is not installed; pip install 'livetalk[{extra}]'")


def run(
    options: argparse.Namespace,
    ready: Callable[[str], str],
    warm: Callable[[ClientLimits, str], tuple[Size, ...]] | None = None,
    spare_cores: int = 0,
) -> int:
    """Open the pools and serve until SIGTERM. `ready`: the line that says so, from the address of /talk.

    `warm`: the sizes that are made before that, from the limits and the model's bucket; None for all. `spare_cores`: cores that the
    pools leave free.
    """
    import asyncio

    from livetalk_core.open import open_pool
    from livetalk_core.serve.access import Access, tls_context
    from livetalk_core.serve.push import check_url
    from livetalk_core.serve.server import run_server
    from livetalk_core.serve.service import Service

    if options.pools < 1:
        raise ValueError(f"pools={options.pools} must be 1 or more")
    limits, tls = limits_of(options), tls_context(options.tls_cert, options.tls_key)
    if options.push:
        check_url(options.push)
    token = token_of(options)
    access = Access(token=token, hosts=(options.host, *options.allow_host), origins=tuple(options.origin))
    if not token and options.host not in THIS_MACHINE:
        tell(f"livetalk: anyone who can reach {options.host} may use this server; set {TOKEN_VARIABLE} to require a token")
    pools = [open_pool(engine_options(options), tell, spare_cores=spare_cores) for _ in range(options.pools)]
    sizes = (warm or sizes_to_warm)(limits, pools[0].preset.live_bucket)
    service = Service(pools, limits, access, options.box, sizes, options.push)
    asyncio.run(run_server(service, options.host, options.port, tls, options.drain_s, ready))
    return 0


def token_of(options: argparse.Namespace) -> str:
    return os.environ.get(TOKEN_VARIABLE, "") if options.token is None else options.token


def sizes_to_warm(limits: ClientLimits, bucket: str) -> tuple[Size, ...]:
    """All sizes that clients may ask for, the largest first: it shows whether there is enough memory."""
    sizes = dict.fromkeys(size for offered in limits.sizes(bucket).values() for size in offered)
    return tuple(sorted(sizes, key=lambda size: -size[0] * size[1]))


def first_size(limits: ClientLimits, bucket: str) -> tuple[Size, ...]:
    """The size that a client gets who names none and whose picture is as wide as it is high."""
    size = bucket if limits.size == "auto" else limits.size
    return (BUCKETS[size][0] if size in BUCKETS else parse_size(size),)
