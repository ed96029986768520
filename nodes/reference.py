"""Reference Conditioning: encodes a picture and a prompt for one video size, and shows the crop on the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livetalk_core.sizes import BUCKETS, choose_size

from . import engines, host
from .types import CATEGORY, EngineWire, ReferenceWire, io, ui
from .words import naming_inputs

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from livetalk_core.types import Reference

PROMPT = "A person is talking. Only the foreground characters are moving, the background remains static."
"""The core's own default, repeated here so that the list of nodes does not load torch."""
SIZES = ("auto", *BUCKETS, "custom")
Masks = tuple["Tensor | None", "Tensor | None"]
"""The first and the second speaker's."""


class ReferenceConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkReferenceConditioning",
            display_name="LiveTalk Reference Conditioning",
            category=CATEGORY,
            description="Encodes the picture and the prompt. The preview is the crop that the video will show.",
            search_aliases=["image encode", "portrait", "identity", "speaker masks"],
            has_intermediate_output=True,  # what it shows is shown again when the node comes from the cache
            inputs=[
                EngineWire.Input("engine", tooltip="From Load LiveTalk Model."),
                io.Image.Input(
                    "image",
                    tooltip="The picture, each side 32 pixels or more; 512 or more looks good. Of a batch, the first, or each.",
                ),
                *prompt_and_size(),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="Features of the picture from CLIP Vision Encode (CLIP ViT-H), in place of the model's own CLIP. Not for nano.",
                ),
                *mask_inputs(),
                crop_input(),
                any_size_input(),
                each_picture_input(),
            ],
            outputs=[
                ReferenceWire.Output(
                    "reference",
                    display_name="reference",
                    tooltip="Picture and prompt, for the sampler. With each_picture, one for each picture.",
                    is_output_list=True,
                )
            ],
        )

    @classmethod
    def execute(
        cls, engine, image, prompt, size, width, height,
        clip_vision_output=None, first_mask=None, second_mask=None, crop="auto", any_size=False,
        each_picture=False,
    ) -> io.NodeOutput:  # fmt: skip
        features_LD = None if clip_vision_output is None else clip_vision_output["penultimate_hidden_states"][0]
        references = [
            make_reference(engine, picture, prompt, size, width, height, masks, features_LD, crop, any_size)
            for picture, masks in pictures_of(image, (first_mask, second_mask), each_picture)
        ]
        return io.NodeOutput(references, ui=ui.PreviewImage(shown_together([picture_of(each) for each in references]), cls=cls))


def pictures_of(image_BHWC: Tensor, masks: Masks, each: bool) -> list[tuple[Tensor, Masks]]:
    """Every picture [1, H, W, C] of a batch with its masks [1, H, W], or the first alone, with a note if there are more."""
    if image_BHWC.shape[0] == 0:
        raise ValueError("image is a batch without pictures; connect one with at least one picture")
    num_pictures = image_BHWC.shape[0] if each else 1
    if image_BHWC.shape[0] > num_pictures:
        host.tell(f"image is a batch of {image_BHWC.shape[0]}; the first picture is used; each_picture makes a video of each")
    mask_of = lambda mask, k: None if mask is None else mask[min(k, len(mask) - 1)][None]  # noqa: E731
    first, second = masks
    return [(image_BHWC[k : k + 1], (mask_of(first, k), mask_of(second, k))) for k in range(num_pictures)]


def shown_together(pictures: list[Tensor]) -> Tensor:
    """[B, H, W, 3]; pictures of a batch have one size, so their crops have one too."""
    import torch

    return torch.stack(pictures)


def picture_of(reference: Reference) -> Tensor:
    """The cropped picture [H, W, 3] in [0, 1]."""
    return (reference.pixels_CHW.float().cpu().permute(1, 2, 0) + 1) / 2


def mask_inputs() -> list[io.Input]:
    text = "Where speaker {} is in the picture: white on black, as large as the picture. With only the first mask, all others keep still."
    return [io.Mask.Input(f"{name}_mask", optional=True, tooltip=text.format(n)) for n, name in ((1, "first"), (2, "second"))]


def crop_input() -> io.Input:
    return io.String.Input(
        "crop",
        optional=True,
        default="auto",
        tooltip=(
            "Which part of the picture the video shows. auto: its middle, or the part around a face that would be small. face: the part "
            "around the face. Or center, top, or X,Y, the point to keep in the middle, in fractions such as 0.5,0.3."
        ),
        advanced=True,
    )


def any_size_input() -> io.Input:
    return io.Boolean.Input(
        "any_size",
        optional=True,
        default=False,
        tooltip="Also allow sizes that the model was not made for. The face may then not talk.",
        advanced=True,
    )


def each_picture_input() -> io.Input:
    return io.Boolean.Input(
        "each_picture",
        optional=True,
        default=False,
        tooltip="Make one video for each picture of a batch, all with the same speech, instead of one video of the first picture.",
        advanced=True,
    )


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
                "Video size. auto: the model's own. A number: about that many pixels a side, in the shape nearest to the picture's: "
                "416 gives 544 x 544 to 720 x 416; 128 and 256 are nano's. custom: width and height below."
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
    spec,
    image_1HWC: Tensor,
    prompt,
    size,
    width,
    height,
    masks: Masks = (None, None),
    image_LD=None,
    crop: str = "auto",
    any_size: bool = False,
) -> Reference:
    """Crop and encode a picture [1, H, W, C] in [0, 1]. ValueError for a small picture, a bad size or crop, no first mask, no face."""
    from livetalk_core.job import FACE_CROPS
    from livetalk_core.media.image import crop_cover, crop_note, parse_focus

    picture = read_picture("image", image_1HWC[0])
    engine = engines.engine_for(spec)
    size_of = lambda picture: video_size(engine.preset, picture.size, size, width, height, any_size)  # noqa: E731
    focus = parse_focus("center" if crop in FACE_CROPS else crop)
    if crop in FACE_CROPS:
        shape_WH = (width, height) if size == "custom" else (1, 1)
        picture = around_its_face(picture, crop, any(mask is not None for mask in masks), size_of(picture), shape_WH, engine.preset)
    plan = engine.plan(*size_of(picture))
    if note := crop_note(*picture.size, plan.width, plan.height, focus):
        host.tell(f"image {note}; crop keeps another part")
    pixels_CHW = crop_cover(picture, plan.width, plan.height, focus=focus)
    masks_KHW = crop_masks(masks, picture.size, plan.width, plan.height, focus)
    return engines.reference_for(spec, pixels_CHW, prompt, masks_KHW, image_LD)


def around_its_face(
    picture: Image.Image, crop: str, masked: bool, video_WH: tuple[int, int], shape_WH: tuple[int, int], preset
) -> Image.Image:
    """The part of the picture around its face, where that is asked for, or where the face would be small; else the whole picture."""
    from livetalk_core.media.faces import can_find, face_part

    if crop == "face" and masked:
        raise ValueError("crop face is for one speaker without masks; disconnect first_mask and second_mask, or set crop to center")
    if crop == "auto" and (masked or not can_find()):
        return picture
    box = face_part(picture, video_WH, shape_WH, preset.face_share, preset.smallest_face(*video_WH) if crop == "auto" else None)
    if crop == "face" and box is None:
        raise ValueError("image has no face that could be found; crop it to the face with another node, and set crop to center")
    if box is None:
        return picture
    host.tell("image: a face was found, and the video shows the part around it; crop center shows the whole picture")
    return picture.crop(box)


def read_picture(name: str, image_HWC: Tensor) -> Image.Image:
    """The picture of an input; errors speak of the input by its name."""
    from livetalk_core.media.image import picture_from_tensor

    with naming_inputs({"picture tensor: picture": name, "picture tensor": name}):
        return picture_from_tensor(image_HWC)


def video_size(preset, picture_size: tuple[int, int], size: str, width: int, height: int, any_size: bool) -> tuple[int, int]:
    """(width, height). ValueError for a size that the model was not made for, unless any size is allowed."""
    chosen = (width, height) if size == "custom" else choose_size(*picture_size, preset.bucket if size == "auto" else size)
    preset.plan(*chosen)  # first what cannot be computed at all
    if not any_size:
        preset.check_size(*chosen, way_out="set size to auto, or allow it with any_size")
    return chosen


def crop_masks(masks: Masks, picture_size: tuple[int, int], width: int, height: int, focus: tuple[float, float]) -> Tensor | None:
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
    from livetalk_core.media.image import crop_cover

    if not mask_HW.any():  # Load Image's own, 64 x 64, where a picture has no transparent parts
        raise ValueError(f"{name} is black all over; paint the speaker in Load Image's mask editor, or disconnect {name}")
    size = (mask_HW.shape[1], mask_HW.shape[0])
    if size != picture_size:
        wanted = f"{picture_size[0]}x{picture_size[1]}"
        raise ValueError(f"{name} of {size[0]}x{size[1]} pixels must be as large as the picture, {wanted}; scale it like the picture")
    gray = read_picture(name, mask_HW.float()[..., None].expand(-1, -1, 3))
    cropped_HW = (crop_cover(gray, width, height, focus=focus).mean(0) > 0).float()
    if not cropped_HW.any():
        raise ValueError(f"{name} is black in the cropped picture; paint the speaker white")
    return cropped_HW
