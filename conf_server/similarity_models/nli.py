"""Natural language inference by a cross-encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conf_server.cancellation import never, raise_if
from conf_server.similarity_models.lengths import longest, max_tokens

BATCH: Final = 32
_VERDICTS: Final = ("entail", "neutral", "contradict")


class NliModel:
    """A sequence classifier of premise and hypothesis with three labels."""

    symmetric = False

    def __init__(self, path: str, device: str = "cpu") -> None:
        """Load the model.

        Raises:
            OSError: no such model, or transformers cannot load it.
            ValueError: its labels are not entailment, neutral and contradiction.
        """
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModelForSequenceClassification.from_pretrained(path).eval().to(device)
        self._device = device
        self._max_tokens = max_tokens(self._tokenizer, self._model.config)
        self._columns = label_columns(self._model.config.id2label)

    def reads_all(self, pairs: Sequence[tuple[str, str]]) -> bool:
        """Whether no pair is longer than what the model reads; the rest of one is cut off."""
        return longest(self._tokenizer, *zip(*pairs, strict=True)) <= self._max_tokens

    @torch.inference_mode()
    def judge(
        self, pairs: Sequence[tuple[str, str]], cancelled: Callable[[], bool] = never
    ) -> NDArray[np.float64]:
        """(pairs, 3) probabilities of entail, neutral, contradict.

        Raises:
            CancelledError: `cancelled` turned true between two batches.
        """
        # Long pairs together: a batch is as long as its longest.
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        verdicts = np.empty((len(pairs), len(_VERDICTS)))
        for start in range(0, len(order), BATCH):
            raise_if(cancelled)
            rows = order[start : start + BATCH]
            batch: Any = self._tokenizer(
                [pairs[i][0] for i in rows],
                [pairs[i][1] for i in rows],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            ).to(self._device)
            probabilities = self._model(**batch).logits.double().softmax(-1)
            verdicts[rows] = probabilities[:, self._columns].cpu().numpy()
        return verdicts


def label_columns(id2label: Mapping[int, str]) -> list[int]:
    """Columns of entail, neutral and contradict.

    Raises:
        ValueError: the labels are not those three.
    """
    names = {int(column): label.lower() for column, label in id2label.items()}
    columns = []
    for verdict in _VERDICTS:
        found = [column for column, name in names.items() if name.startswith(verdict)]
        if len(found) != 1:
            raise ValueError(
                f"an NLI model has the labels entailment, neutral and contradiction; this one "
                f"has {', '.join(names.values())}"
            )
        columns += found
    return columns
