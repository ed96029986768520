"""Where the pack's videos say they come from: Content Credentials and a watermark, as ComfyUI's environment asks for them."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .types import InputImpl

if TYPE_CHECKING:
    from livetalk_core.media.video import Seal, VideoWriter
    from livetalk_core.provenance.marking import Marking
    from livetalk_core.provenance.watermark import Watermark
    from livetalk_core.types import Reference

    from .host import TempFile
    from .speech import Speech

log = logging.getLogger(__name__)

HASHES_OF = "the crop's 8-bit RGB pixels, and each sound's float32 samples, channel by channel"
"""ComfyUI's pictures and sounds are in memory, so there are no files to hash."""


@functools.cache
def marking() -> Marking:
    """What is done to every video. ValueError, in one line, for a certificate that cannot sign or a word that is not on or off."""
    from livetalk_core.provenance.marking import open_marking, options_from_environment

    found = open_marking(options_from_environment())
    log.info("LiveTalk: %s", found.note)
    return found


def seal_of(model: str, reference: Reference | None, speech: Speech | None, mark: Watermark | None, composite: bool = False) -> Seal | None:
    """Signs a finished video as made by this model from this picture and sound. `composite`: as a part of a picture. None if videos are
    not signed."""
    from livetalk_core.provenance.manifest import Origin, hash_of

    if marking().credentials is None:
        return None
    sound = () if speech is None else tuple(hash_of([wave_CN.contiguous().numpy().tobytes()]) for wave_CN in speech.waveforms)
    picture = "" if reference is None else hash_of([pixels_of(reference)])
    mark_id = None if mark is None else mark.mark_id
    return marking().seal(
        Origin(model=model, picture=picture, sound=sound, hashes_of=HASHES_OF, mark_id=mark_id, composite=composite), "video.mp4"
    )


def tell(writer: VideoWriter) -> None:
    """Log why a video that was to be signed is not."""
    if writer.unsealed:
        log.warning("LiveTalk: the video has no Content Credentials: %s", writer.unsealed)


def pixels_of(reference: Reference) -> bytes:
    return ((reference.pixels_CHW.float().cpu() + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy().tobytes()


def video_from(file: TempFile):
    """A VIDEO of a file. Core nodes that save it write a new file, which is signed as this one is."""
    return InputImpl.VideoFromFile(file) if file.seal is None else signed_video()(file)


@functools.cache
def signed_video() -> type:
    class SignedVideo(InputImpl.VideoFromFile):
        """ComfyUI's VIDEO of a file that is signed when it is saved as MP4, with whatever metadata ComfyUI writes."""

        def __init__(self, file: TempFile) -> None:
            super().__init__(file)
            self.seal = file.seal

        def save_to(self, path, *args, **how) -> None:
            super().save_to(path, *args, **how)
            if isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() == ".mp4":
                sign(Path(path), self.seal)
            else:
                log.warning("LiveTalk: %s gets no Content Credentials; only .mp4 files do", path)

    return SignedVideo


def sign(video: Path, seal: Seal) -> None:
    """Replace a saved video by its signed copy. What cannot be signed stays as it is, and the log says so."""
    signed = video.with_name(f".{video.name}.signed")
    try:
        seal(video, signed)
        os.replace(signed, video)
    except (OSError, ValueError) as error:
        signed.unlink(missing_ok=True)
        log.warning("LiveTalk: %s has no Content Credentials: %s", video, error)
