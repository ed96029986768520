"""Load LiveTalk Model: settings in, an engine handle out."""

from livetalk_core.engine.options import DTYPES, EngineOptions

from . import engines, folders
from .types import CATEGORY, EngineWire, io

KERNELS = ("auto", "sdpa", "flash2", "flash3")
"""Those that most have use for."""


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
            ],
            outputs=[EngineWire.Output("engine", display_name="engine", tooltip="The model, for the other LiveTalk nodes.")],
        )

    @classmethod
    def execute(
        cls, model: str, precision: str, attention: str, gpus: int, compile: bool, audio_patch: str = folders.NO_PATCH
    ) -> io.NodeOutput:
        shown = {"dtype": precision, "attention": attention, "gpus": gpus or "auto", "compile": compile}
        spec = engines.EngineSpec(model=model, audio_patch=audio_patch, options=EngineOptions(**shown))
        engines.engine_for(spec)
        return io.NodeOutput(spec)


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
