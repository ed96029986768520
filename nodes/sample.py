"""Streaming Bidirectional Sampler: combines engine, reference and speech into a stream. Later nodes run it."""

from .latent import LazyLatent
from .stream import TalkStream
from .types import CATEGORY, EngineWire, ReferenceWire, SpeechWire, StreamWire, io

OWN_STEPS, OWN_SHIFT, OWN_SCALE = 0, 0.0, 0.0
"""Mean the model's own value, since a widget cannot be empty."""


class StreamingBidirectionalSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkStreamingBidirectionalSampler",
            display_name="LiveTalk Streaming Bidirectional Sampler",
            category=CATEGORY,
            description=(
                "A stream of chunks of 28 new frames. Attention within a chunk runs in both directions; each chunk starts from the end of "
                "the one before. The next node runs the stream, so memory does not grow with length."
            ),
            search_aliases=["ksampler", "sampler", "talk", "stream"],
            inputs=[
                EngineWire.Input("engine", tooltip="From Load LiveTalk Model."),
                ReferenceWire.Input("reference", tooltip="From Reference Conditioning."),
                SpeechWire.Input("speech", tooltip="From Audio Embedding."),
                *settings_inputs(),
                *steering_inputs(),
            ],
            outputs=[
                StreamWire.Output("stream", display_name="stream", tooltip="For Parallel VAE Decode or Live Preview."),
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip=(
                        "All latents, for core latent nodes: 16 channels (Wan 2.1), for nano 64. Computed only if a node uses it. "
                        "Its memory grows with length: 7 latent frames per chunk."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, engine, reference, speech, seed, steps, shift, color_strength, **steering) -> io.NodeOutput:
        stream = make_stream(engine, reference, speech, seed, steps, shift, color_strength, **steering)
        return io.NodeOutput(stream, LazyLatent(stream))


def settings_inputs() -> list[io.Input]:
    """Settings of one stream, also of LiveTalk Generate."""
    return [
        io.Int.Input(
            "seed",
            default=9999,
            min=0,
            max=2**63 - 1,
            control_after_generate="fixed",
            tooltip="0 to 2^63 - 1. The same seed gives the same video.",
        ),
        io.Int.Input(
            "steps",
            default=OWN_STEPS,
            min=OWN_STEPS,
            max=50,
            tooltip=(
                "Denoising steps per chunk, 1 to 50. 0: the model's own. The published 14B and nano were distilled for 4; InfiniteTalk and "
                "MultiTalk take 40 without a distillation LoRA."
            ),
        ),
        io.Float.Input(
            "shift",
            default=OWN_SHIFT,
            min=OWN_SHIFT,
            max=20.0,
            step=0.1,
            tooltip=(
                "Time shift of the schedule, 0.1 to 20; higher values spend more steps at high noise. "
                "0: the model's own, 5 for the published 14B and 3 for nano."
            ),
            advanced=True,
        ),
        io.Float.Input(
            "color_strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="How strongly colors are matched to the picture: 0 (not at all; they may drift over minutes) to 1.",
            advanced=True,
        ),
    ]


def steering_inputs() -> list[io.Input]:
    """Further settings of a stream. All are optional, so that older saved prompts still run."""
    shown = {"optional": True, "advanced": True}
    scale = {"default": OWN_SCALE, "min": OWN_SCALE, "max": 20.0, "step": 0.1, **shown}
    return [
        io.Float.Input(
            "audio_strength",
            default=1.0,
            min=0.0,
            max=2.0,
            step=0.05,
            tooltip="How strongly the sound moves the face, 0 to 2. 1 is as trained.",
            **shown,
        ),
        io.String.Input(
            "prompt_at",
            default="",
            multiline=True,
            tooltip="Prompts for later, one on each line as SECONDS:TEXT, such as 12.5:A person is laughing. nano ignores them.",
            **shown,
        ),
        io.Float.Input(
            "text_guidance",
            tooltip="Guidance by the prompt, 0.1 to 20. 1: none. 0: the model's own, 5 for InfiniteTalk. Each chunk takes longer with it.",
            **scale,
        ),
        io.Float.Input(
            "audio_guidance",
            tooltip="Guidance by the sound, 0.1 to 20. 1: none. 0: the model's own, 4 for InfiniteTalk. Each chunk takes longer with it.",
            **scale,
        ),
        io.String.Input(
            "negative_prompt",
            default="",
            multiline=True,
            tooltip="What text_guidance leads away from. Empty: the model's own.",
            **shown,
        ),
    ]


def make_stream(
    spec,
    reference,
    speech,
    seed: int,
    steps: int,
    shift: float,
    color_strength: float,
    audio_strength: float = 1.0,
    prompt_at: str = "",
    text_guidance: float = OWN_SCALE,
    audio_guidance: float = OWN_SCALE,
    negative_prompt: str = "",
) -> TalkStream:
    """A stream, not yet run. ValueError for settings out of range, or a number of masks that does not fit the speakers."""
    from livetalk_core.stream.prompts import parse_prompts
    from livetalk_core.types import StreamSettings

    masks_KHW = reference.speaker_masks_KHW
    two_masks = masks_KHW is not None and bool(masks_KHW[-1].any())
    if (speech.people == 2 and masks_KHW is None) or (speech.people == 1 and two_masks):
        given = "two" if two_masks else "no"
        raise ValueError(f"{speech.people} speaker(s) with {given} speaker masks; two speakers need two, one needs one or none")
    settings = StreamSettings(
        seed=seed,
        steps=None if steps == OWN_STEPS else steps,
        shift=None if shift == OWN_SHIFT else shift,
        color_strength=color_strength,
        loudness=speech.loudness,
        audio_strength=audio_strength,
        prompts=parse_prompts(prompt_at.splitlines()),
        text_guidance=None if text_guidance == OWN_SCALE else text_guidance,
        audio_guidance=None if audio_guidance == OWN_SCALE else audio_guidance,
        negative_prompt=negative_prompt.strip() or None,
    )
    return TalkStream(spec=spec, reference=reference, speech=speech, settings=settings)
