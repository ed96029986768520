"""Audio Embedding: ComfyUI's AUDIO in, checked speech for the sampler out."""

from .speech import speech_from
from .types import CATEGORY, SpeechWire, io, ui


class AudioEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkAudioEmbedding",
            display_name="LiveTalk Audio Embedding",
            category=CATEGORY,
            description=(
                "Prepares speech for the sampler: any sample rate and channels, one or two speakers. "
                "The sound is encoded while the stream runs, so a long recording needs little extra memory."
            ),
            search_aliases=["audio encode", "wav2vec", "speech", "voice"],
            has_intermediate_output=True,  # what it shows is shown again when the node comes from the cache
            inputs=[
                io.Audio.Input("audio", tooltip="The speech, at least 0.04 s (one frame at 25 frames a second)."),
                io.Audio.Input(
                    "second_audio",
                    optional=True,
                    tooltip="A second speaker's speech. Both start together; silence follows the shorter one. Needs two masks.",
                ),
                loudness_input(),
                io.Boolean.Input(
                    "split_channels",
                    optional=True,
                    default=False,
                    tooltip="Use the two channels of audio as two speakers, left first. Needs two masks.",
                    advanced=True,
                ),
            ],
            outputs=[
                SpeechWire.Output("speech", display_name="speech", tooltip="Sound for the sampler."),
                io.Int.Output("frames", display_name="frames", tooltip="Number of video frames: 25 x seconds, halves rounded up."),
            ],
        )

    @classmethod
    def execute(cls, audio=None, loudness: bool = True, second_audio=None, split_channels: bool = False) -> io.NodeOutput:
        speech = speech_from(audio, second_audio, loudness, split_channels)
        length = f"{speech.num_frames} frames, {float(speech.duration):.2f} s, {speech.people} speaker(s)"
        return io.NodeOutput(speech, speech.num_frames, ui=ui.PreviewText(length))


def loudness_input() -> io.Input:
    return io.Boolean.Input(
        "loudness",
        default=True,
        tooltip="Normalize the sound to -23 LUFS before the audio encoder, as in training. The video's sound is not changed.",
        advanced=True,
    )
