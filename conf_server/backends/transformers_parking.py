"""A model whose weights are on the GPU only while they are needed there."""

from __future__ import annotations

from typing import Any

import torch

from conf_server.backends.transformers_memory import is_out_of_memory, no_memory, release


class ParkedWeights:
    """Weights and buffers that stay in the machine's memory; a device gets copies for a while.

    Nothing changes them, so that leaving the device needs no copy.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        """
        Args:
            model: whose weights are in the machine's memory.
            device: where they are needed. For a GPU they are copied into memory that it can read
                by itself, which is several times as fast.
        """
        self._device = device
        self._tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
        if device.type == "cuda":
            for tensor in self._tensors:
                tensor.data = tensor.data.pin_memory()
        self._kept = [tensor.data for tensor in self._tensors]

    def move(self, on_device: bool) -> None:
        """Bring copies onto the device, or drop them.

        Raises:
            RefusalError: the device has no room. Then nothing is on it.
        """
        failed = None
        if on_device:
            try:
                for tensor, kept in zip(self._tensors, self._kept, strict=True):
                    tensor.data = kept.to(self._device, non_blocking=True)
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failed = no_memory("the scorer's weights beside what the GPU holds")
        for tensor, kept in zip(self._tensors, self._kept, strict=True):
            tensor.data = kept
        release()
        if failed is not None:
            raise failed
