"""Load LiveTalk Model: takes settings, loads the engine, returns a handle to it."""

from dataclasses import fields, replace

from livetalk_core.engine.lora_files import parse_lora
from livetalk_core.engine.options import DTYPES, EngineOptions

from . import community, engines, folders
from .types import CATEGORY, EngineWire, OptionsWire, io, ui
from .words import INPUTS, naming_inputs

KERNELS = ("auto", "sdpa", "flash2", "flash3")
"""The common ones; LiveTalk Engine Options has all."""


AUTO = "auto"
AUTO_TEXT = " auto: the Wan 2.1 I2V base, audio patch, LoRA for 4 steps and other parts that are found there; the node shows them."
PARTS = {"vae": "VAE", "text": "text encoder", "image": "CLIP vision", "audio_encoder": "wav2vec2"}
"""The other parts of a model that can be chosen, by EngineOptions' fields."""


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkModelLoader",
            display_name="Load LiveTalk Model",
            category=CATEGORY,
            description=(
                "Loads a model that makes pictures talk. Loaders with equal settings share one. "
                "ComfyUI's Unload Models closes it, and the next run loads it again."
            ),
            search_aliases=["livetalk", "talking head", "avatar", "flashtalk", "model loading"],
            inputs=[
                model_input(*folders.base_names()),
                io.Combo.Input(
                    "precision",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Number format of the weights: auto is bfloat16 on a GPU and float32 on a CPU.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "attention",
                    options=list(KERNELS),
                    default="auto",
                    tooltip="Attention kernel: auto chooses by GPU and picture size; flash2 and flash3 need their packages.",
                    advanced=True,
                ),
                io.Int.Input(
                    "gpus",
                    default=1,
                    min=0,
                    max=64,
                    tooltip=(
                        "GPUs that make one video together, 1 to 64, or 0 for all that are free and make it faster. "
                        "Above 1, each has its own process. When ComfyUI runs on the CPU, this is the number of CPU processes."
                    ),
                    advanced=True,
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    tooltip="Use torch.compile: faster chunks, but a slow first one for every size. Needs a C++ compiler.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "audio_patch",
                    options=folders.patch_names(),
                    default=folders.NO_PATCH,
                    optional=True,
                    tooltip=(
                        "The InfiniteTalk or MultiTalk file that a Wan 2.1 I2V base needs to talk, from models/diffusion_models or "
                        "models/model_patches. none: the model needs no patch."
                    ),
                    advanced=True,
                ),
                OptionsWire.Input(
                    "options",
                    optional=True,
                    tooltip="Further settings from LiveTalk Engine Options. They override the settings here.",
                ),
                *part_inputs(),
            ],
            has_intermediate_output=True,  # what it shows is shown again when the node comes from the cache
            outputs=[EngineWire.Output("engine", display_name="engine", tooltip="The model, for the other LiveTalk nodes.")],
        )

    @classmethod
    def execute(
        cls, model: str, precision: str, attention: str, gpus: int, compile: bool, audio_patch: str = folders.NO_PATCH, options=None,
        vae=AUTO, text_encoder=AUTO, clip_vision=AUTO, audio_encoder=AUTO,
    ) -> io.NodeOutput:  # fmt: skip
        shown = {"dtype": precision, "attention": attention, "gpus": gpus or "auto", "compile": compile}
        chosen = {"vae": vae, "text": text_encoder, "image": clip_vision, "audio_encoder": audio_encoder}
        shown |= {name: folders.find_file(name, file) for name, file in chosen.items() if file != AUTO}
        with naming_inputs():
            options = fill_in(options or EngineOptions(), shown)
            if model == folders.AUTO:
                model, audio_patch, options = community.find_set(options, audio_patch)
            spec = engines.EngineSpec(model=model, audio_patch=audio_patch, options=options)
        engines.engine_for(spec)
        return io.NodeOutput(spec, ui=ui.PreviewText(describe(engines.options_of(spec))))

    @classmethod
    def validate_inputs(cls, model: str | None = None, audio_patch: str | None = None) -> bool | str:
        return folders.refusal(model, audio_patch) or True

    @classmethod
    def fingerprint_inputs(cls, model: str | None = None, **inputs) -> object:
        """Changes with the files that `auto` may take, so that a new one is seen."""
        return [*folders.base_names(), *folders.patch_names(), *folders.host.model_files("loras")] if model == folders.AUTO else None


def describe(options: EngineOptions) -> str:
    """The model's files, one line: what was found, and which LoRAs are added."""
    loras = "".join(f", LoRA: {parse_lora(lora)[0].name}" for lora in options.lora)
    steps = f", kind: {options.kind}" if options.kind != "auto" else ""
    return f"{folders.describe_parts(options.source)}{loras}{steps}"


def part_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            INPUTS.get(field, field),
            options=[AUTO, *folders.file_names(field)],
            default=AUTO,
            optional=True,
            tooltip=(
                f"The {name} file, from models/{folders.FOLDERS[field]}. auto: the one that fits the model; the node shows it. "
                "Not for nano."
            ),
            advanced=True,
        )
        for field, name in PARTS.items()
    ]


def fill_in(options: EngineOptions, shown: dict[str, object]) -> EngineOptions:
    """The options; those at their defaults take the values set on the node."""
    defaults = {field.name: field.default for field in fields(options)}
    return replace(options, **{name: value for name, value in shown.items() if vars(options)[name] == defaults[name]})


def model_input(*more: str) -> io.Input:
    """The model input, also of LiveTalk Generate. `more`: models that need an audio patch."""
    return io.Combo.Input(
        "model",
        options=[*folders.model_names(), *more],
        default=folders.SHIPPED,
        tooltip=(
            f"{folders.SHIPPED} comes with the pack: drawn people and close photographs at 256 pixels, needs no GPU. "
            "Put model folders into models/livetalk, or single files into ComfyUI's own model folders."
            f"{AUTO_TEXT if more else ''}"
        ),
    )
