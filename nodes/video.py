"""LiveTalk Generate: the whole graph in one node."""

from . import engines
from .audio import loudness_input
from .film import film_of_stream, video_of
from .load import model_input
from .reference import make_reference, prompt_and_size
from .sample import make_stream, settings_inputs
from .speech import speech_from
from .types import CATEGORY, io


class Generate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkGenerate",
            display_name="LiveTalk Generate",
            category=CATEGORY,
            description="Makes a talking video with sound from a picture and speech, at any length in constant memory.",
            search_aliases=["talking head", "avatar", "lip sync", "audio to video", "livetalk"],
            inputs=[
                model_input(),
                io.Image.Input("image", tooltip="One picture, each side 32 pixels or more; 512 or more looks good."),
                io.Audio.Input("audio", tooltip="The speech, at least 0.04 s (one frame at 25 frames a second)."),
                *prompt_and_size(),
                *settings_inputs(),
                loudness_input(),
            ],
            outputs=[io.Video.Output("video", display_name="video", tooltip="MP4 at 25 frames a second with its sound.")],
        )

    @classmethod
    def execute(cls, model, image, audio, prompt, size, width, height, seed, steps, shift, color_strength, loudness) -> io.NodeOutput:
        spec = engines.EngineSpec(model=model)
        speech = speech_from(audio, None, loudness)
        reference = make_reference(spec, image, prompt, size, width, height)
        stream = make_stream(spec, reference, speech, seed, steps, shift, color_strength)
        return io.NodeOutput(video_of(film_of_stream(stream)))
