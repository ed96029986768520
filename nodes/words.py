"""Rewrites the core's errors for ComfyUI: they name inputs instead of command-line options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

INPUTS = {"dtype": "precision", "text": "text_encoder", "image": "clip_vision", "dit": "model"}
"""Inputs whose name differs from the core's field."""
PHRASES = {
    "leave --model out": "choose nano",
    "or name the files with --dit, --vae, ...": "or choose the files in LiveTalk Engine Options",
    "with --model": "as model",
    "leave out --gpus and --workers": "set gpus to 1 and workers to 0",
    "use --workers N": "set workers in LiveTalk Engine Options",
    "or use --memory": "or choose in LiveTalk Engine Options memory",
    "choose another --memory": "choose another memory",
    "; leave it out for those": "; choose the model's default for those",
}
"""The core's advice for the command line, and the same advice for ComfyUI."""
FLAG = re.compile(r"--([a-z][a-z-]*)")


@contextmanager
def naming_inputs(renamed: dict[str, str] | None = None) -> Iterator[None]:
    """Raise errors with inputs named in place of options. `renamed`: further phrases and their replacements."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        renamed_text = name_inputs(str(error), renamed)
        if renamed_text == str(error):
            raise
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(renamed_text) from error


def name_inputs(text: str, renamed: dict[str, str] | None = None) -> str:
    for words, ours in (PHRASES | (renamed or {})).items():
        text = text.replace(words, ours)
    return FLAG.sub(lambda found: INPUTS.get(name := found[1].replace("-", "_"), name), text)
