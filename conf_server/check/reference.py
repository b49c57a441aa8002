"""The same model in transformers, in float32: what the engine's numbers are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from conf_server.check.readings import Reading
from conf_server.check.reference_rows import ReferenceRows, reference_rows
from conf_server.settings import SettingsError


def load_tokenizer(path: str, hub: dict[str, Any]) -> Any:
    """
    Raises:
        SettingsError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(path, **hub)
    except (OSError, ValueError) as error:
        raise SettingsError(f"no tokenizer in {path}: {error}") from error


def require_model(path: str, hub: dict[str, Any]) -> None:
    """Before the engine's start is waited for.

    Raises:
        SettingsError: transformers finds no model there.
    """
    try:
        AutoConfig.from_pretrained(path, **hub)
    except (OSError, ValueError) as error:
        raise SettingsError(f"transformers finds no model in {path}: {error}") from error


class Reference:
    """Distributions of given tokens, by forward passes over whole sequences."""

    def __init__(self, path: str, device: str | None, hub: dict[str, Any]) -> None:
        """
        Args:
            path: a model folder, or its name on a hub.
            device: torch's name; None takes a GPU where there is one.
            hub: further arguments of transformers' `from_pretrained`.
        """
        # A GPU's TF32 has 10 bits of mantissa: no reference.
        torch.set_float32_matmul_precision("highest")
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **hub)
        self._model = model.to(self._device).eval()
        self._token_ids: list[int] = []
        self._logits = torch.empty(0)

    def rows(self, reading: Reading, statistics: bool) -> ReferenceRows:
        """What transformers says where the engine has given a row.

        The forward pass costs nothing for a sequence that the last one computed begins with.

        Args:
            statistics: the token statistics too.
        """
        logits = self._forward(reading.token_ids)[reading.first - 1 :].cpu().numpy()
        own = np.array(reading.token_ids[reading.first :])
        return reference_rows(logits, own, reading.rows.candidate_ids, statistics)

    def _forward(self, token_ids: list[int]) -> torch.Tensor:
        """(n-1, vocabulary) float32 logits: row t is the distribution of token t+1."""
        if self._token_ids[: len(token_ids)] != token_ids:
            with torch.inference_mode():
                logits = self._model(torch.tensor([token_ids], device=self._device)).logits
            self._token_ids, self._logits = token_ids, logits[0, :-1]
        return self._logits[: len(token_ids) - 1]
