"""The engine that a command line names: in this process or in workers, of a preset, a folder or single files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TextIO


def open_engine(options: argparse.Namespace, notes: TextIO):
    """The engine that the options name, in this process or in a pool of workers; says to `notes` when its weights are random."""
    engine = open_pool(options) if options.workers is not None or options.gpus != "1" else open_here(options)
    if not engine.preset.trained:
        note = "RANDOM WEIGHTS, so the picture is a pattern, not a face; it shows that everything runs"
        print(f"model {engine.preset.name}: {note}", file=notes)
    return engine


def open_here(options: argparse.Namespace):
    from livetalk_core.engine.load import load_engine
    from livetalk_core.models.attention import select_kernel

    select_kernel(options.attention)
    how = {name: vars(options)[name] for name in ("device", "memory", "compile", "fast", "decoder")}
    return load_engine(named_model(options), dtype=named_dtype(options), **how)


def open_pool(options: argparse.Namespace):
    """Workers, started, and warm where the options ask for it; says how many there are and why."""
    from livetalk_core.pool import place as placement
    from livetalk_core.pool.pool import Pool, Recipe

    model = named_model(options)
    demand = placement.demand_of(model, options.size)
    if options.workers is not None:
        place, device = placement.place_on_cpu(options.workers, demand, options.memory), "cpu"
    else:
        place, device = placement.place_on_gpus(options.gpus, demand, placement.visible_gpus(), options.memory), "cuda:0"
    print(f"workers: {place.reason}", file=sys.stderr)
    names = ("attention", "memory", "compile", "fast", "decoder")
    how = {name: vars(options)[name] for name in names} | {"dtype": named_dtype(options)}
    pool = Pool(place, Recipe(arguments={"model": model, "device": device} | how))
    pool.start()
    if options.warm and options.compile:
        from livetalk_core.engine.warm import warm_up

        print(f"compiled and warm after {warm_up(pool, options.size):.0f} s", file=sys.stderr)
    return pool


def named_model(options: argparse.Namespace):
    """A preset's name or folder as given, or its files with those named in their place."""
    from livetalk_core.engine.files import SHIPPED, ModelFiles, find_files
    from livetalk_core.presets import BY_NAME

    given = {
        "dit": tuple(options.dit or ()),
        "vae": options.vae,
        "text": options.text,
        "image": options.image,
        "audio": options.audio_encoder,
        "tokenizer": options.tokenizer,
    }
    if not any(given.values()):
        return options.model
    if options.model not in BY_NAME:
        return find_files(Path(options.model)).override(**given)
    encoders = any(value for part, value in given.items() if part not in ("dit", "vae"))
    folder = SHIPPED / options.model
    return (ModelFiles() if encoders or not folder.is_dir() else find_files(folder)).override(**given)


def named_dtype(options: argparse.Namespace):
    import torch

    return None if options.dtype == "auto" else {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]


def open_frozen(options: argparse.Namespace):
    """The engine whose frozen networks encode the data. A preset with --vae has that one, and needs no other weights."""
    from dataclasses import replace

    import torch

    from livetalk_core.engine.load import build_random, choose_device
    from livetalk_core.models.weights import load_vae, read_tensors
    from livetalk_core.presets import BY_NAME

    if options.model not in BY_NAME or options.vae is None:
        return open_here(options)
    engine = build_random(BY_NAME[options.model](), choose_device(options.device), named_dtype(options) or torch.float32)
    engine.models = replace(engine.models, vae=load_vae(read_tensors([options.vae]), dtype=engine.dtype, device=engine.device))
    return engine
