"""An engine as ComfyUI's memory management sees it: one model that is loaded whole and unloaded whole."""

from __future__ import annotations

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher


def hold(slot) -> None:
    """Load the slot's engine through ComfyUI, which makes room for it first and may close it later."""
    if slot.patcher is None:
        slot.patcher = EnginePatcher(slot)
    mm.load_models_gpu([slot.patcher])
    assert slot.engine is not None, "ComfyUI loads what it is told to load"


class LiveTalkEngine(torch.nn.Module):
    """Stands for the weights, which are the engine's; ComfyUI shows its name in the log."""


class EnginePatcher(ModelPatcher):
    """Answers for one slot. It lives as long as the slot, so ComfyUI's weak references to it stay good."""

    def __init__(self, slot) -> None:
        super().__init__(LiveTalkEngine(), load_device=mm.get_torch_device(), offload_device=torch.device("cpu"))
        self.slot = slot

    def is_dynamic(self) -> bool:
        return False

    def model_size(self) -> int:
        return self.slot.size

    def loaded_size(self) -> int:
        return 0 if self.slot.engine is None else self.slot.size

    def current_loaded_device(self) -> torch.device:
        return self.offload_device if self.slot.engine is None else self.load_device

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False) -> int:
        """All of it: an engine cannot run in parts."""
        self.slot.load()
        return self.slot.size

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False) -> int:
        """Nothing; ComfyUI then unloads the whole with `detach`."""
        return 0

    def detach(self, unpatch_all=True) -> torch.nn.Module:
        """Close the engine. With `unpatch_all` false ComfyUI only moves its own entry, so the engine stays."""
        if unpatch_all:
            self.slot.close()
        return self.model
