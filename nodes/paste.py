"""Paste Face Back: puts the talking face of a stream back into the whole picture that it was cropped from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import engines, marks
from .reference import read_picture
from .stream import TalkStream
from .types import CATEGORY, StreamWire, io

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from livetalk_core.media.faces import Box
    from livetalk_core.media.paste import PasteBack
    from livetalk_core.media.video import Seal
    from livetalk_core.types import Chunk, Reference


class PasteFaceBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkPasteFaceBack",
            display_name="LiveTalk Paste Face Back",
            category=CATEGORY,
            description=(
                "The whole picture at its own size, with the talking face of the stream in it. "
                "Needs crop face, or a small face and crop auto, in Reference Conditioning."
            ),
            search_aliases=["composite", "full picture", "uncrop", "paste"],
            inputs=[
                StreamWire.Input("stream", tooltip="From the sampler."),
                io.Image.Input("image", tooltip="The picture that Reference Conditioning got."),
            ],
            outputs=[
                StreamWire.Output("stream", display_name="stream", tooltip="The whole pictures, for Parallel VAE Decode or Live Preview.")
            ],
        )

    @classmethod
    def execute(cls, stream, image) -> io.NodeOutput:
        return io.NodeOutput(pasted_back(stream, [read_picture("image", image_HWC) for image_HWC in image]))


def pasted_back(stream: TalkStream, pictures: list[Image.Image]) -> PastedStream:
    """The stream in the first of these pictures that its reference is a part of. ValueError if it is of none."""
    from livetalk_core.media.paste import PasteBack

    reference, share = stream.reference, engines.engine_for(stream.spec).preset.face_share
    for picture in pictures:
        box = place_of(reference, picture, share)
        if box is not None:
            settled = {name: vars(stream)[name] for name in ("spec", "reference", "speech", "settings")}
            return PastedStream(**settled, inner=stream, paste=PasteBack(picture, box, reference.pixels_CHW))
    raise ValueError(
        "image is not the picture whose face the stream shows; connect the one that Reference Conditioning got, and set its crop to face"
    )


def place_of(reference: Reference, picture: Image.Image, share: float) -> Box | None:
    """Which part around the picture's face the reference shows; None if it shows none."""
    import torch

    from livetalk_core.media.faces import around_face, find_face
    from livetalk_core.media.image import crop_cover

    face = find_face(picture)
    height, width = reference.pixels_CHW.shape[1:]
    for shape_WH in () if face is None else ((1, 1), (width, height)):
        box = around_face(picture.size, face, share, shape_WH)
        if torch.equal(crop_cover(picture.crop(box), width, height), reference.pixels_CHW.float().cpu()):
            return box
    return None


@dataclass(kw_only=True, eq=False)
class PastedStream(TalkStream):
    """A stream whose frames are whole pictures; what it is computed from, and its latents, are the inner stream's."""

    inner: TalkStream
    paste: PasteBack

    @property
    def width(self) -> int:
        return self.paste.size[0]

    @property
    def height(self) -> int:
        return self.paste.size[1]

    @property
    def picture(self) -> Tensor:
        """The whole picture [H, W, 3] in [0, 1]."""
        return self.paste.whole_HWC / 255

    def seal(self) -> Seal | None:
        return marks.seal_of(self.model_name, self.reference, self.speech, self.mark, composite=True)

    def chunks(self, pictures: bool = True) -> Iterator[Chunk]:
        """The inner stream's chunks in their picture. The watermark is put into the whole picture too."""
        for piece in self.inner.chunks(pictures):
            whole_THWC = self.paste.frames(piece.frames_THWC)
            yield replace(piece, frames_THWC=whole_THWC if self.mark is None else self.mark(whole_THWC))
        self.note = self.inner.note

    def latents(self) -> Tensor:
        return self.inner.latents()
