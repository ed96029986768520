"""Opens an engine in this process or in a pool of workers, as the options say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from livetalk_core.engine.options import EngineOptions

if TYPE_CHECKING:
    from livetalk_core.engine.engine import Engine
    from livetalk_core.pool.place import Box, Demand
    from livetalk_core.pool.pool import Pool
    from livetalk_core.pool.wire import Placement

__all__ = ["EngineOptions", "open_engine", "open_pool"]

log = logging.getLogger(__name__)


def open_engine(options: EngineOptions, notes: Callable[[str], None] = log.info, prompt: str | None = None) -> Engine | Pool:
    """Open an engine. `notes` receives the number of workers with the reason, and a note if weights are random.

    `prompt`: the one that is used first, which may be encoded before the DiT takes the memory.
    """
    if options.in_pool:
        engine = open_pool(options, notes, prompt)
    else:
        from livetalk_core.engine.load import load_member
        from livetalk_core.presets import PROMPT

        engine = load_member(None, options, PROMPT if prompt is None else prompt)
    if not engine.preset.trained:
        notes(f"model {engine.preset.name}: RANDOM WEIGHTS, so the picture is a pattern, not a face; it shows that everything runs")
    return engine


def open_pool(options: EngineOptions, notes: Callable[[str], None] = log.info, prompt: str | None = None, spare_cores: int = 0) -> Pool:
    """A started pool of workers, even for one GPU. `prompt`: the one that is used first; None for the default.

    `spare_cores`: cores that are left to other programs.
    """
    from livetalk_core.parallel.memory import host_bytes
    from livetalk_core.pool import place as placement
    from livetalk_core.pool.pool import Pool, Recipe

    demand = placement.demand_of(options.source, options.size, options.weights)
    if options.workers is not None:
        place, device = placement.place_on_cpu(options.workers, demand, options.memory), "cpu"
    else:
        box = placement.Box(gpus=tuple(placement.visible_gpus()), host_bytes=host_bytes())
        place, device = place_on_gpus(options, demand, box), "cuda:0"
        if place.memory == "sharded":
            options = replace(options, memory="sharded")  # all ranks must do the same; offload and resident may differ by rank
    notes(f"workers: {place.reason}")
    pool = Pool(place, Recipe(options=replace(options, device=device), prompt=prompt), spare_cores=spare_cores)
    pool.start()
    return pool


def place_on_gpus(options: EngineOptions, demand: Demand, box: Box) -> Placement:
    """The GPUs of a pool. ValueError for a model that does not fit, with 8-bit weights as a way out if they would fit."""
    from livetalk_core.pool import place as placement

    try:
        return placement.place_on_gpus(options.gpus, demand, box, options.memory, can_shard=options.can_shard)
    except ValueError as error:
        if not box.gpus or options.weights in ("int8", "fp8"):
            raise
        smaller = placement.demand_of(options.source, options.size, "int8")
        if not fits(options, smaller, box):
            raise
        raise ValueError(f"{error}; or keep the weights in 8 bits with --weights int8, which is lossy") from None


def fits(options: EngineOptions, demand: Demand, box: Box) -> bool:
    from livetalk_core.pool import place as placement

    try:
        placement.place_on_gpus(options.gpus, demand, box, options.memory, can_shard=options.can_shard)
    except ValueError:
        return False
    return True
