"""Shards: tar archives of safetensors (the layout of WebDataset), and an index with the place of each sample.

A shard is renamed when complete, and only then added to the index. So after any interruption every sample in the index exists.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.train.sample import Sample, decode_tensors

HEADER = 512
"""Bytes of the tar header before each member."""
NULL_KEY = "null"
"""Key of the negative prompt, a sample with text only."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The place of a sample, and what the loader must know before reading it."""

    key: str
    shard: str
    offset: int
    size: int
    width: int
    height: int
    chunks: int
    source: str


class ShardWriter:
    """Appends samples to a folder. Existing samples stay, so an interrupted run can resume."""

    def __init__(self, folder: Path, part: str = "000", max_bytes: int = 1 << 30):
        self.folder, self.part, self.max_bytes = folder, part, max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self.known = {entry.key for entry in read_index(folder)}
        self.done = read_done(folder)
        """Sources whose clips are all in the index."""
        self.finished: list[str] = []
        self.number = len(list(folder.glob(f"{part}-*.tar")))
        self.waiting: list[Entry] = []
        self.tar: tarfile.TarFile | None = None

    def add(self, key: str, tensors: dict[str, Tensor], *, width: int, height: int, chunks: int, source: str) -> None:
        """Store one sample."""
        if self.tar is None:
            self.tar = tarfile.TarFile(self.hidden, "w", format=tarfile.USTAR_FORMAT)
        data = save(tensors)
        info = tarfile.TarInfo(f"{len(self.waiting):08d}.safetensors")
        info.size = len(data)
        offset = self.tar.offset + HEADER
        self.tar.addfile(info, io.BytesIO(data))
        self.waiting.append(
            Entry(key=key, shard=self.name, offset=offset, size=len(data), width=width, height=height, chunks=chunks, source=source)
        )
        self.known.add(key)
        if self.tar.offset >= self.max_bytes:
            self.close()

    def finish(self, source: str) -> None:
        """Note that all clips of a source have been added, so that a later run need not read it."""
        self.finished.append(source)

    def close(self) -> None:
        """Finish the current shard."""
        if self.tar is not None:
            self.close_tar()
        if self.finished:
            with (self.folder / f"done-{self.part}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(source) + "\n" for source in self.finished)
            self.done |= set(self.finished)
            self.finished = []

    def close_tar(self) -> None:
        self.tar.close()
        os.replace(self.hidden, self.folder / self.name)
        with (self.folder / f"index-{self.part}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(vars(entry)) + "\n" for entry in self.waiting)
        self.tar, self.waiting, self.number = None, [], self.number + 1

    @property
    def name(self) -> str:
        return f"{self.part}-{self.number:05d}.tar"

    @property
    def hidden(self) -> Path:
        return self.folder / f".{self.name}.part"

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ShardSet:
    """The samples of a folder, by number."""

    def __init__(self, folder: Path, plans: dict[tuple[int, int], StreamPlan], entries: list[Entry]):
        self.folder, self.plans, self.entries = folder, plans, entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        return decode_tensors(entry.key, read_member(self.folder, entry), self.plans[entry.width, entry.height])

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """(width, height) of every sample."""
        return [(entry.width, entry.height) for entry in self.entries]


def open_shards(folder: Path, plan_of: Callable[[int, int], StreamPlan], min_chunks: int = 1) -> ShardSet:
    """The samples with at least `min_chunks` chunks. `plan_of`: (width, height) -> StreamPlan.

    FileNotFoundError for a folder without an index, ValueError when no sample is long enough.
    """
    entries = [entry for entry in read_index(folder) if entry.key != NULL_KEY]
    if not entries:
        raise FileNotFoundError(f"{folder} has no samples (index-*.jsonl is missing or empty); make them with: livetalk prepare")
    long_enough = [entry for entry in entries if entry.chunks >= min_chunks]
    if not long_enough:
        longest = max(entry.chunks for entry in entries)
        raise ValueError(
            f"{folder}: the longest sample has {longest} chunks, but {min_chunks} are needed; prepare with --chunks {min_chunks}"
        )
    sizes = {(entry.width, entry.height) for entry in long_enough}
    return ShardSet(folder, {size: plan_of(*size) for size in sizes}, long_enough)


def read_null_text(folder: Path) -> Tensor:
    """Text rows [L, D] of the negative prompt. FileNotFoundError if the folder has none."""
    for entry in read_index(folder):
        if entry.key == NULL_KEY:
            return read_member(folder, entry)["text"].float()
    raise FileNotFoundError(f"{folder} has no negative prompt; add it by running livetalk prepare again")


def read_index(folder: Path) -> list[Entry]:
    """The entries of all index files, in order of file names."""
    lines = [line for path in sorted(folder.glob("index-*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Entry(**json.loads(line)) for line in lines]


def read_done(folder: Path) -> set[str]:
    """The sources whose clips are all in the index."""
    return {json.loads(line) for path in folder.glob("done-*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()}


def read_member(folder: Path, entry: Entry) -> dict[str, Tensor]:
    with (folder / entry.shard).open("rb") as file:
        file.seek(entry.offset)
        return load(file.read(entry.size))
