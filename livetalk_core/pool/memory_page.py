"""Writes docs/memory.md: what `--memory auto` and `--gpus auto` choose for the published model, by cards and host memory.

Update the page with `python -m livetalk_core.pool.memory_page > docs/memory.md`.
"""

from __future__ import annotations

from livetalk_core.engine.planner import FORMS, USES, Use, block_bytes, plan_card
from livetalk_core.parallel.memory import GIB, host_share, settle_memory
from livetalk_core.pool.place import Box, Demand, Gpu, in_gib, place_on_gpus

CARDS = (80, 48, 44.5, 32, 24, 16)
COUNTS = (1, 2, 4, 8)
HOSTS = (32, 64, 128)
BLOCK, NUM_BLOCKS, REST = 928_000_000, 40, 1_500_000_000
"""Bytes of a block of the 14B model, their number, and bytes of all other weights that stay on the GPU."""
ROOMS = tuple(USES[0].room(count) for count in range(1, max(COUNTS) + 1))
"""Room for a chunk's work on each of 1, 2, 3, ... GPUs."""
PUBLISHED = Demand(
    heads=40, num_bytes=NUM_BLOCKS * BLOCK + REST + ROOMS[0], tokens=10530, block_bytes=BLOCK, num_blocks=NUM_BLOCKS, rooms=ROOMS
)

INTRODUCTION = f"""# Memory: what fits on which GPUs

After reading this page you can tell what `--memory auto` and `--gpus auto` choose for the published 14B model in bfloat16.

`auto` takes the first that fits of:

1. **resident**: every GPU holds all weights. Needs {in_gib(PUBLISHED.on_each("resident", 1))} free on each GPU.
2. **sharded** (two GPUs or more; not with `--compile`): each GPU holds a part of the DiT's blocks. Needs
   {in_gib(PUBLISHED.on_each("sharded", 2))} free on each of 2, {in_gib(PUBLISHED.on_each("sharded", 4))} on each of 4,
   {in_gib(PUBLISHED.on_each("sharded", 8))} on each of 8.
3. **offload**: the blocks are in pinned host memory and are copied to the GPU one by one. Needs
   {in_gib(PUBLISHED.on_each("offload", 1))} free on each GPU, and 1 GiB of host memory for each block and GPU. Blocks stay on the GPU
   where there is room, or where the host has none.

Encoders need no room beside the DiT. If umT5 (11 GB) does not fit there, the first prompt is encoded before the DiT is loaded, and later
prompts on the CPU.

The reason is logged at the start. `--memory` with a name asks for that one only.

A chunk's work takes memory beside the weights, which these numbers include; [below](#what-a-chunk-takes) is how much.

The table is computed by `python -m livetalk_core.pool.memory_page`, not measured on a GPU. "GPU" is free memory on each GPU,
"host" is free host memory. "2 x offload, 24 on GPU" means: 2 GPUs, with 24 of the 40 blocks kept on each GPU.

| GPU | {" | ".join(f"host {host} GiB" for host in HOSTS)} |
|---|{"---|" * len(HOSTS)}
"""


ONE_CARD = (80, 48, 32, 24, 16, 12)
ONE_CARD_INTRODUCTION = f"""
## One GPU, by the form of the weights

`--weights int8` or `fp8`, and files in fp8 or GGUF, make the blocks smaller: {block_bytes("16bit") / 1e6:.0f} MB each in 16 bits,
{block_bytes("int8") / 1e6:.0f} MB in 8 bits, {block_bytes("Q4_K") / 1e6:.0f} MB as Q4_K. 8 bits are used only if you ask for them,
or if the file has them. `livetalk doctor` prints these lines for your GPU.

A cell says where the blocks are, where umT5 runs in 16 bits once the DiT is loaded, and the most memory that the GPU is expected to take.
umT5 runs on the GPU if a chunk's working memory fits beside it.

| GPU | weights | {" | ".join(f"host {host} GiB" for host in HOSTS)} |
|---|---|{"---|" * len(HOSTS)}
"""


WORK_INTRODUCTION = f"""
## What a chunk takes

Beside the weights, each GPU needs room for the work of a chunk. It grows with the picture, with the frames of a chunk (33 for
SoulX-FlashTalk, 81 for InfiniteTalk and MultiTalk) and with the passes of guidance. Most of it is the VAE's decoder, which makes 12
frames at a time. GPUs that work together share it. The room is counted from the sizes of tensors, which tests compare with a trace of
what is alive, and has 1 GiB for CUDA's libraries.

| model and size | {" | ".join(f"{count} GPU" if count == 1 else f"each of {count}" for count in COUNTS)} |
|---|{"---|" * len(COUNTS)}
"""
OTHER_HOST = 64
OTHERS_INTRODUCTION = f"""
InfiniteTalk on one GPU, with {OTHER_HOST} GiB of host memory. MultiTalk takes the same:

| GPU | weights | {" | ".join(use.pixels for use in USES[1:])} |
|---|---|{"---|" * len(USES[1:])}
"""


def page() -> str:
    """The whole page."""
    rows = (f"| {count} x {card} GiB | {' | '.join(choice(card, count, host) for host in HOSTS)} |" for card in CARDS for count in COUNTS)
    return INTRODUCTION + "\n".join(rows) + "\n" + one_card() + work() + one_card_for_others()


def one_card() -> str:
    """What one GPU does with the weights in each form."""
    rows = (f"| {card} GiB | {form} | {' | '.join(told(card, host, form) for host in HOSTS)} |" for card in ONE_CARD for form in FORMS)
    return ONE_CARD_INTRODUCTION + "\n".join(rows) + "\n"


def work() -> str:
    """The room for a chunk's work."""
    rows = (f"| {use.told} | {' | '.join(f'{use.room(count) / GIB:.1f} GiB' for count in COUNTS)} |" for use in USES)
    return WORK_INTRODUCTION + "\n".join(rows) + "\n"


def one_card_for_others() -> str:
    """What one GPU does with larger chunks and pictures."""
    rows = (
        f"| {card} GiB | {form} | {' | '.join(told(card, OTHER_HOST, form, use) for use in USES[1:])} |"
        for card in ONE_CARD
        for form in FORMS
    )
    return OTHERS_INTRODUCTION + "\n".join(rows) + "\n"


def told(card_gib: float, host_gib: int, form: str, use: Use = USES[0]) -> str:
    plan = plan_card(int(card_gib * GIB), host_gib * GIB, form, use)
    return "does not fit" if plan is None else plan.told


def choice(card_gib: float, count: int, host_gib: int) -> str:
    """What auto chooses on `count` equal cards, in a few words."""
    free, host = int(card_gib * GIB), host_gib * GIB
    gpus = tuple(Gpu(index=i, uuid=str(i), free_bytes=free, name="") for i in range(count))
    try:
        place = place_on_gpus("auto", PUBLISHED, Box(gpus=gpus, host_bytes=host))
    except ValueError:
        return "does not fit"
    chosen = f"{place.num_workers} x {place.memory}"
    if place.memory != "offload":
        return chosen
    kept = settle_memory("auto", free, BLOCK, NUM_BLOCKS, REST, ROOMS[place.num_workers - 1], host_share(host, place.num_workers))[1]
    return f"{chosen}, {kept} on GPU"


if __name__ == "__main__":
    print(page(), end="")
