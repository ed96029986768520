"""Load LiveTalk Model: settings in, an engine handle out."""

from dataclasses import fields, replace

from livetalk_core.engine.options import DTYPES, EngineOptions

from . import engines, folders
from .types import CATEGORY, EngineWire, OptionsWire, io
from .words import in_nodes_words

KERNELS = ("auto", "sdpa", "flash2", "flash3")
"""Those that most have use for; LiveTalk Engine Options has all."""


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkModelLoader",
            display_name="Load LiveTalk Model",
            category=CATEGORY,
            description=(
                "Loads a talking model once; loaders with equal settings share it. "
                "ComfyUI's Unload Models closes it, and the next run brings it back."
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
                    tooltip="Attention kernel: auto takes the fastest that is installed; flash2 and flash3 need their packages.",
                    advanced=True,
                ),
                io.Int.Input(
                    "gpus",
                    default=1,
                    min=0,
                    max=64,
                    tooltip=(
                        "GPUs that make one video together, 1 to 64, or 0 for as many as are free and help. "
                        "More than 1 run in processes of their own. Where ComfyUI runs on the CPU: processes there."
                    ),
                    advanced=True,
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    tooltip="Compile with torch.compile: faster chunks, a slow first one of every size (needs a C++ compiler).",
                    advanced=True,
                ),
                io.Combo.Input(
                    "audio_patch",
                    options=folders.patch_names(),
                    default=folders.NO_PATCH,
                    optional=True,
                    tooltip=(
                        "What a Wan 2.1 I2V base lacks to talk: an InfiniteTalk or MultiTalk file in models/diffusion_models or "
                        "models/model_patches. none: the model is whole."
                    ),
                    advanced=True,
                ),
                OptionsWire.Input(
                    "options",
                    optional=True,
                    tooltip="From LiveTalk Engine Options: further settings. What is set there is taken instead of what is set here.",
                ),
            ],
            outputs=[EngineWire.Output("engine", display_name="engine", tooltip="The model, for the other LiveTalk nodes.")],
        )

    @classmethod
    def execute(
        cls, model: str, precision: str, attention: str, gpus: int, compile: bool, audio_patch: str = folders.NO_PATCH, options=None
    ) -> io.NodeOutput:
        shown = {"dtype": precision, "attention": attention, "gpus": gpus or "auto", "compile": compile}
        with in_nodes_words():
            spec = engines.EngineSpec(model=model, audio_patch=audio_patch, options=fill_in(options or EngineOptions(), shown))
        engines.engine_for(spec)
        return io.NodeOutput(spec)


def fill_in(options: EngineOptions, shown: dict[str, object]) -> EngineOptions:
    """The options, with the values that the loader shows where they are at their defaults."""
    defaults = {field.name: field.default for field in fields(options)}
    return replace(options, **{name: value for name, value in shown.items() if vars(options)[name] == defaults[name]})


def model_input(*more: str) -> io.Input:
    """The choice of model, also for the one-node form; `more` are those that need a second choice."""
    return io.Combo.Input(
        "model",
        options=[*folders.model_names(), *more],
        default=folders.SHIPPED,
        tooltip=(
            f"{folders.SHIPPED} comes with the pack: drawn people at 128 pixels, also without a GPU. "
            "Put model folders into models/livetalk, or single files into ComfyUI's own model folders."
        ),
    )
