"""LiveTalk Generate: the whole graph in one node."""

from . import engines, folders
from .audio import loudness_input
from .load import fill_in, model_input
from .marks import video_from
from .preview import play, shown
from .reference import any_size_input, crop_input, each_picture_input, make_reference, mask_inputs, pictures_of, prompt_and_size
from .sample import make_stream, settings_inputs, steering_inputs
from .speech import speech_from
from .types import CATEGORY, OptionsWire, io


class Generate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkGenerate",
            display_name="LiveTalk Generate",
            category=CATEGORY,
            description="Makes a talking video with sound from a picture and speech, at any length in constant memory.",
            search_aliases=["talking head", "avatar", "lip sync", "audio to video", "livetalk"],
            has_intermediate_output=True,  # what it shows is shown again when the node comes from the cache
            inputs=[
                model_input(),
                io.Image.Input(
                    "image",
                    tooltip="The picture, each side 32 pixels or more; 512 or more looks good. Of a batch, the first, or each.",
                ),
                io.Audio.Input("audio", tooltip="The speech, at least 0.04 s (one frame at 25 frames a second)."),
                *prompt_and_size(),
                *settings_inputs(),
                loudness_input(),
                io.Audio.Input("second_audio", optional=True, tooltip="A second speaker's speech. Both start together. Needs two masks."),
                *mask_inputs(),
                OptionsWire.Input("options", optional=True, tooltip="Settings of the engine, from LiveTalk Engine Options."),
                crop_input(),
                any_size_input(),
                each_picture_input(),
                *steering_inputs(),
            ],
            outputs=[
                io.Video.Output(
                    "video",
                    display_name="video",
                    tooltip="MP4 at 25 frames a second with its sound. With each_picture, one for each picture.",
                    is_output_list=True,
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return folders.refusal(model, alone=True) or True

    @classmethod
    def execute(
        cls, model, image, audio, prompt, size, width, height, seed, steps, shift, color_strength, loudness,
        second_audio=None, first_mask=None, second_mask=None, options=None, crop="auto", any_size=False,
        each_picture=False, **steering,
    ) -> io.NodeOutput:  # fmt: skip
        spec = engines.EngineSpec(model=model) if options is None else engines.EngineSpec(model=model, options=fill_in(options, {}))
        speech = speech_from(audio, second_audio, loudness)
        files = []
        for picture, masks in pictures_of(image, (first_mask, second_mask), each_picture):
            reference = make_reference(spec, picture, prompt, size, width, height, masks, None, crop, any_size)
            stream = make_stream(spec, reference, speech, seed, steps, shift, color_strength, **steering)
            files.append(play(stream, cls.hidden))
        return io.NodeOutput([video_from(file) for file in files], ui=shown(files))
