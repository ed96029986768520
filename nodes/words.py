"""Errors of the core in the words of the nodes: inputs are named in place of the command line's options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

INPUTS = {"dtype": "precision", "text": "text_encoder", "image": "clip_vision", "dit": "model"}
"""Inputs that have another name than the core's field."""
PHRASES = {
    "leave --model out": "choose nano",
    "or name the files with --dit, --vae, ...": "or choose the files in LiveTalk Engine Options",
    "with --model": "as model",
    "leave out --gpus and --workers": "set gpus to 1 and workers to 0",
    "use --workers N": "set workers in LiveTalk Engine Options",
    "or use --memory": "or choose in LiveTalk Engine Options memory",
    "choose another --memory": "choose another memory",
}
"""What the core tells a user of the command line to do, and what it is here."""
FLAG = re.compile(r"--([a-z][a-z-]*)")


@contextmanager
def in_nodes_words(renamed: dict[str, str] | None = None) -> Iterator[None]:
    """The same errors, naming inputs. `renamed`: further words, and ours."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        told = nodes_words(str(error), renamed)
        if told == str(error):
            raise
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(told) from error


def nodes_words(text: str, renamed: dict[str, str] | None = None) -> str:
    for words, ours in (PHRASES | (renamed or {})).items():
        text = text.replace(words, ours)
    return FLAG.sub(lambda found: INPUTS.get(name := found[1].replace("-", "_"), name), text)
