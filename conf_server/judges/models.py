"""Judges that are models of their own, and how the flags' models are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from conf_server.backends.base import Backend
from conf_server.concurrency import in_thread
from conf_server.judges.base import Judge, JudgeContext, Pair, Verdicts
from conf_server.judges.hidden_states import HiddenStatesJudge
from conf_server.judges.self_nli import SelfNliJudge
from conf_server.judges.words import RougeLJudge, WordsJudge
from conf_server.settings import ConfidenceSettings, SettingsError


class ModelJudge(Judge):
    """A model in this process; one thread works on it, one batch after the other."""

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: `symmetric`, and `judge(pairs, cancelled)`: (pairs, 3), and whether it has
                read all of every text.
        """
        self.symmetric = model.symmetric
        self._model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="similarity-model")

    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        verdicts: Verdicts
        verdicts, whole = await in_thread(self._thread, partial(self._model.judge, pairs))
        context.notes.cut |= not whole
        return verdicts


def all_judges(backend: Backend, models: dict[str, Any]) -> dict[str, Judge]:
    """Every judge that this server has, by the name that requests use.

    Args:
        models: of `load_models`.
    """
    judges: dict[str, Judge] = {
        "jaccard": WordsJudge(),
        "rouge_l": RougeLJudge(),
        "self_nli": SelfNliJudge(backend),
    }
    if backend.limits().states is None:
        judges["hidden_states"] = HiddenStatesJudge(backend)
    return judges | {name: ModelJudge(model) for name, model in models.items()}


def load_models(settings: ConfidenceSettings) -> dict[str, Any]:
    """The models that the flags name, by the name that requests use.

    Raises:
        SettingsError: naming the flag whose model cannot be loaded.
    """
    loaders: dict[str, tuple[str, str | None, Callable[[str, str], Any]]] = {
        "embedding": ("--embedding-model", settings.embedding_model, _embedding),
        "nli": ("--nli-model", settings.nli_model, _nli),
    }
    models = {}
    for name, (flag, path, load) in loaders.items():
        if path is None:
            continue
        try:
            models[name] = load(path, settings.similarity_device)
        except (OSError, ValueError, RuntimeError) as error:
            raise SettingsError(f"{flag} {path}: {error}") from error
    return models


def _embedding(path: str, device: str) -> Any:
    from conf_server.judges.embedding import EmbeddingModel

    return EmbeddingModel(path, device)


def _nli(path: str, device: str) -> Any:
    from conf_server.judges.nli import NliModel

    return NliModel(path, device)
