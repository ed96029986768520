"""How a video says where it comes from: by signed credentials, a watermark, both or neither. Checked before any work begins."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from livetalk_core.provenance.credentials import Credentials, CredentialsMissing, open_credentials
from livetalk_core.provenance.manifest import Origin

if TYPE_CHECKING:
    from livetalk_core.provenance.watermark import Watermark

CREDENTIALS_VARIABLE, WATERMARK_VARIABLE = "LIVETALK_CREDENTIALS", "LIVETALK_WATERMARK"
ON, OFF = ("1", "on", "yes", "true"), ("0", "off", "no", "false")


@dataclass(frozen=True, kw_only=True)
class MarkOptions:
    """What is asked for. `sign_cert` and `sign_key` are PEM files; without them the environment's, else the installation's own pair."""

    credentials: bool = True
    watermark: bool = False
    sign_cert: Path | None = None
    sign_key: Path | None = None
    sign_prompt: bool = False
    """Write the prompt into the credentials too."""


def options_from_environment() -> MarkOptions:
    """Where there is no command line: LIVETALK_CREDENTIALS and LIVETALK_WATERMARK, on or off. ValueError for other words."""
    return MarkOptions(credentials=switch(CREDENTIALS_VARIABLE, True), watermark=switch(WATERMARK_VARIABLE, False))


def switch(variable: str, default: bool) -> bool:
    value = os.environ.get(variable, "").lower()
    if value and value not in ON + OFF:
        raise ValueError(f"{variable}={value} must be on or off")
    return value in ON if value else default


@dataclass(frozen=True, kw_only=True)
class Marking:
    """What is done to a video, ready to be done."""

    options: MarkOptions
    credentials: Credentials | None
    note: str
    """A sentence for the user."""

    def seal(self, origin: Origin, title: str) -> Callable[[Path, Path], None] | None:
        """For VideoWriter: signs the finished video. None if it is not to be signed."""
        if self.credentials is None:
            return None
        origin = origin if self.options.sign_prompt else replace(origin, prompt=None)
        return lambda video, signed: self.credentials.sign(video, signed, origin, title)

    def watermark(self, mark_id: int | None = None) -> Watermark | None:
        """For the frames: a mark with this id, or a new one. None if it is not asked for."""
        if not self.options.watermark:
            return None
        from livetalk_core.provenance.watermark import Watermark, new_id

        return Watermark(new_id() if mark_id is None else mark_id)


def open_marking(options: MarkOptions) -> Marking:
    """ValueError or FileNotFoundError for a certificate or key that the user gave and that cannot sign.

    What cannot be had without the user's doing (a package, a folder to write to) is said in `note` and ends nothing.
    """
    if not options.credentials:
        return Marking(options=options, credentials=None, note="the video gets no Content Credentials: they are turned off")
    try:
        credentials = open_credentials(options.sign_cert, options.sign_key)
    except CredentialsMissing as error:
        return Marking(options=options, credentials=None, note=f"the video gets no Content Credentials: {error}")
    return Marking(options=options, credentials=credentials, note=note_of(credentials))


def note_of(credentials: Credentials) -> str:
    if credentials.key.note:
        return credentials.key.note
    if credentials.key.own:
        return "the video gets Content Credentials, signed by this installation's own certificate, which nobody else vouches for"
    return "the video gets Content Credentials, signed by your certificate"
