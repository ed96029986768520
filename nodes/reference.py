"""Reference Conditioning: encodes a picture and a prompt for one video size, and shows the crop on the node."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from livetalk_core.sizes import BUCKETS, choose_size

from . import engines
from .types import CATEGORY, EngineWire, ReferenceWire, io, ui

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.types import Reference

log = logging.getLogger(__name__)

PROMPT = "A person is talking. Only the foreground characters are moving, the background remains static."
"""The core's own default, repeated here so that the list of nodes does not load torch."""
SIZES = ("auto", *BUCKETS, "custom")


class ReferenceConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        mask_text = (
            "Where speaker {} is in the picture: white on black, as large as the picture. With only the first mask, all others keep still."
        )
        return io.Schema(
            node_id="LiveTalkReferenceConditioning",
            display_name="LiveTalk Reference Conditioning",
            category=CATEGORY,
            description="Encodes the picture and the prompt. The preview is the crop that the video will show.",
            search_aliases=["image encode", "portrait", "identity", "speaker masks"],
            has_intermediate_output=True,  # what it shows is shown again when the node comes from the cache
            inputs=[
                EngineWire.Input("engine", tooltip="From Load LiveTalk Model."),
                io.Image.Input("image", tooltip="One picture, each side 32 pixels or more; 512 or more looks good."),
                *prompt_and_size(),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="Features of the picture from CLIP Vision Encode (CLIP ViT-H), in place of the model's own CLIP. Not for nano.",
                ),
                io.Mask.Input("first_mask", optional=True, tooltip=mask_text.format(1)),
                io.Mask.Input("second_mask", optional=True, tooltip=mask_text.format(2)),
                io.String.Input(
                    "crop",
                    optional=True,
                    default="center",
                    tooltip=(
                        "Which part to keep if the picture has another shape than the video: center, top, or X,Y, the point to keep in the "
                        "middle, in fractions of width and height, such as 0.5,0.3."
                    ),
                    advanced=True,
                ),
            ],
            outputs=[ReferenceWire.Output("reference", display_name="reference", tooltip="Picture and prompt, for the sampler.")],
        )

    @classmethod
    def execute(
        cls, engine, image, prompt, size, width, height, clip_vision_output=None, first_mask=None, second_mask=None, crop="center"
    ) -> io.NodeOutput:
        features_LD = None if clip_vision_output is None else clip_vision_output["penultimate_hidden_states"][0]
        reference = make_reference(engine, image, prompt, size, width, height, (first_mask, second_mask), features_LD, crop)
        crop_HWC = (reference.pixels_CHW.float().cpu().permute(1, 2, 0) + 1) / 2
        return io.NodeOutput(reference, ui=ui.PreviewImage(crop_HWC[None], cls=cls))


def prompt_and_size() -> list[io.Input]:
    """The prompt and size inputs, also of LiveTalk Generate."""
    return [
        io.String.Input(
            "prompt", multiline=True, default=PROMPT, tooltip="What the picture shows and what happens, up to 512 tokens. nano ignores it."
        ),
        io.Combo.Input(
            "size",
            options=list(SIZES),
            default="auto",
            tooltip=(
                "Video size. auto: the model's own bucket; a number: the bucket of about that many pixels a side, nearest to the "
                "picture's shape; custom: width and height below."
            ),
        ),
        *(
            io.Int.Input(
                name,
                default=416,
                min=32,
                max=2048,
                step=16,
                tooltip=f"Video {name} in pixels for size custom, a multiple of 16, 32 to 2048.",
                advanced=True,
            )
            for name in ("width", "height")
        ),
    ]


def make_reference(
    spec, image_BHWC: Tensor, prompt, size, width, height, masks=(None, None), image_LD=None, crop: str = "center"
) -> Reference:
    """Crop and encode a picture [1, H, W, C] in [0, 1]. ValueError for a batch, a small picture, a bad size or crop, no first mask."""
    from livetalk_core.media.image import crop_cover, crop_note, parse_focus, picture_from_tensor

    if image_BHWC.shape[0] != 1:
        raise ValueError(f"image is a batch of {image_BHWC.shape[0]}; a stream has one picture: choose one with Get Image from Batch")
    picture = picture_from_tensor(image_BHWC[0])
    engine = engines.engine_for(spec)
    plan = engine.plan(*video_size(engine, picture.size, size, width, height))
    focus = parse_focus(crop)
    if note := crop_note(*picture.size, plan.width, plan.height, focus):
        log.info("LiveTalk: picture: %s; crop keeps another part", note)
    pixels_CHW = crop_cover(picture, plan.width, plan.height, focus=focus)
    masks_KHW = crop_masks(masks, picture.size, plan.width, plan.height, focus)
    return engines.reference_for(spec, pixels_CHW, prompt, masks_KHW, image_LD)


def video_size(engine, picture_size: tuple[int, int], size: str, width: int, height: int) -> tuple[int, int]:
    if size == "custom":
        return width, height
    return choose_size(*picture_size, engine.preset.bucket if size == "auto" else size)


def crop_masks(masks, picture_size: tuple[int, int], width: int, height: int, focus: tuple[float, float]) -> Tensor | None:
    """[3, H, W] of 0 and 1: first speaker, second speaker, background, cropped as the picture is. None without masks.

    With the first mask alone the rest of the picture is the second speaker, who is silent.
    """
    from livetalk_core.job import speaker_masks

    first, second = masks
    if first is None and second is None:
        return None
    if first is None:
        raise ValueError("second_mask is given without first_mask; connect the first speaker's mask, or one speaker's to first_mask alone")
    given = {"first_mask": first} | ({} if second is None else {"second_mask": second})
    return speaker_masks([crop_mask(name, mask[0], picture_size, width, height, focus) for name, mask in given.items()])


def crop_mask(name: str, mask_HW: Tensor, picture_size: tuple[int, int], width: int, height: int, focus: tuple[float, float]) -> Tensor:
    """ValueError for a mask of another shape than the picture's, or black in the crop."""
    from livetalk_core.media.image import crop_cover, picture_from_tensor

    size = (mask_HW.shape[1], mask_HW.shape[0])
    if size != picture_size:
        raise ValueError(f"{name} of {size[0]}x{size[1]} pixels must be as large as the picture, {picture_size[0]}x{picture_size[1]}")
    gray = picture_from_tensor(mask_HW.float()[..., None].expand(-1, -1, 3))
    cropped_HW = (crop_cover(gray, width, height, focus=focus).mean(0) > 0).float()
    if not cropped_HW.any():
        raise ValueError(f"{name} is black in the cropped picture; paint the speaker white")
    return cropped_HW
