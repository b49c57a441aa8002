"""The same model in transformers, in float32: what the engine's numbers are held against."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from conf_server.check.compare import ReferenceRows
from conf_server.engine.readings import Reading
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
    """Log-probabilities of given tokens, by forward passes over whole sequences."""

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
        self._logprobs = torch.empty(0)

    def rows(self, reading: Reading) -> ReferenceRows:
        """What transformers says where the engine has given a row.

        Costs nothing for a sequence that the last one computed begins with.
        """
        logprobs = self._forward(reading.token_ids)[reading.first - 1 :]
        own = torch.tensor(reading.token_ids[reading.first :])[:, None]
        candidates = torch.tensor(reading.rows.candidate_ids, dtype=torch.int64)
        given = torch.cat((own, candidates), dim=1).to(self._device)
        found = logprobs.gather(1, given).double().cpu().numpy()
        best = logprobs.max(1)
        return ReferenceRows(
            logprobs=found[:, 0],
            candidate_logprobs=found[:, 1:],
            best_ids=best.indices.cpu().numpy(),
            best_logprobs=best.values.double().cpu().numpy(),
        )

    def _forward(self, token_ids: list[int]) -> torch.Tensor:
        """(n-1, vocabulary): row t is the distribution of token t+1, nats."""
        if self._token_ids[: len(token_ids)] != token_ids:
            with torch.inference_mode():
                logits = self._model(torch.tensor([token_ids], device=self._device)).logits
            self._token_ids, self._logprobs = token_ids, logits[0, :-1].log_softmax(-1)
        return self._logprobs[: len(token_ids) - 1]
