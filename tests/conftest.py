"""What several tests share: one tiny engine, a portrait, a sound."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made import speech_like, write_published_folder, write_wav
from PIL import Image
from standin import host, nodes  # noqa: F401  (fixtures)

from livetalk_core.engine.engine import Engine
from livetalk_core.engine.load import load_engine

# Toy networks are too small to share among threads. The tests' own processes do as this one.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# The installation's certificate is made in a folder of the tests' own.
DATA = tempfile.TemporaryDirectory(prefix="livetalk-tests-")
os.environ["XDG_DATA_HOME"] = DATA.name


@pytest.fixture(scope="session")
def engine() -> Engine:
    return load_engine("tiny", device="cpu")


@pytest.fixture(scope="session")
def golden() -> Path:
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def portrait(tmp_path_factory) -> Path:
    """48 x 32 pixels of smooth colour."""
    path = tmp_path_factory.mktemp("picture") / "portrait.png"
    x, y = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 32))
    Image.fromarray((np.stack([x, y, 1 - x], axis=-1) * 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def speech(tmp_path) -> Path:
    """2.5 s that rise and fall like speech, 16 kHz WAV."""
    return write_wav(tmp_path / "speech.wav", speech_like(2.5))


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A toy model folder in the published form, not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "SoulX-FlashTalk-14B"
    write_published_folder(folder)
    return folder
