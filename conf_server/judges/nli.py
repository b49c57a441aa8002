"""Natural language inference by a cross-encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conf_server.concurrency import never, raise_if
from conf_server.judges.lengths import encode, max_tokens

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

    @torch.inference_mode()
    def judge(
        self, pairs: Sequence[tuple[str, str]], cancelled: Callable[[], bool] = never
    ) -> tuple[NDArray[np.float64], bool]:
        """(pairs, 3) probabilities of entail, neutral, contradict, and whether all was read.

        Raises:
            CancelledError: `cancelled` turned true between two batches.
        """
        # Long pairs together: a batch is as long as its longest.
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        verdicts, all_whole = np.empty((len(pairs), len(_VERDICTS))), True
        for start in range(0, len(order), BATCH):
            raise_if(cancelled)
            rows = order[start : start + BATCH]
            texts = zip(*(pairs[i] for i in rows), strict=True)
            batch, whole = encode(self._tokenizer, self._max_tokens, *texts)
            all_whole &= whole
            probabilities = self._model(**batch.to(self._device)).logits.double().softmax(-1)
            verdicts[rows] = probabilities[:, self._columns].cpu().numpy()
        return verdicts, all_whole


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
