"""Adapter to ComfyUI's memory management: an engine is loaded and unloaded as a whole."""

from __future__ import annotations

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher


def load_managed(slot) -> None:
    """Load the slot's engine through ComfyUI, which frees memory for it first and may close it later."""
    if slot.patcher is None:
        slot.patcher = EnginePatcher(slot)
    mm.load_models_gpu([slot.patcher])
    assert slot.engine is not None, "ComfyUI did not load the engine"


class LiveTalkEngine(torch.nn.Module):
    """Placeholder for the engine's weights; ComfyUI shows the class name in its log."""


class EnginePatcher(ModelPatcher):
    """Represents one slot. It lives as long as the slot, so ComfyUI's weak references stay valid."""

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
        """Loads everything: an engine cannot run in parts."""
        self.slot.load()
        return self.slot.size

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False) -> int:
        """Unloads nothing; ComfyUI then calls `detach`."""
        return 0

    def detach(self, unpatch_all=True) -> torch.nn.Module:
        """Close the engine. When ComfyUI only reorders its list, `unpatch_all` is false and the engine stays."""
        if unpatch_all:
            self.slot.close()
        return self.model
