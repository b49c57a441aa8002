"""Estimates that every answer with confidence carries, because the server was started so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conf_server.backends.base import Ask, Backend, Caller, Completion, Prompt
from conf_server.gathering.estimation import Estimator
from conf_server.gathering.inquiry import Inquiry
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import finite
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.stats.metrics import METRICS
from conf_server.uncertainty.registry import METHODS

N_SAMPLES = 10
"""Samples that methods get which want any; /v1/uncertainty's default."""


class DefaultEstimates:
    """What `--default-methods` names beside the metrics of an answer's own tokens.

    Those metrics come with the answer. For the others the model is asked once more, when the
    answer is complete.

    Attributes:
        methods: names; none where there is nothing to do.
    """

    def __init__(
        self, estimator: Estimator, backend: Backend, settings: ConfidenceSettings
    ) -> None:
        """
        Args:
            backend: whose answers are meant.

        Raises:
            SettingsError: there is no such method, or this server cannot do it.
        """
        planner = estimator.planner()
        for name in settings.default_methods:
            if name not in METHODS:
                raise SettingsError(
                    f"--default-methods: no method {name!r}; there are {', '.join(METHODS)}"
                )
            if reason := planner.obstacle(METHODS[name], planner.default_similarity):
                raise SettingsError(f"--default-methods: {name} {reason}")
        self._estimator = estimator
        self._backend = backend
        self.methods = tuple(name for name in settings.default_methods if name not in METRICS)

    async def of(
        self, prompt: Prompt, token_ids: Sequence[int], finished: bool, caller: Caller
    ) -> Mapping[str, Any]:
        """`{name: {"value", "exact"}}` of an answer. A value that is null has its `reason` beside.

        Args:
            token_ids: of the answer.
            finished: it has ended with the model's end token, if a special token is its last.
        """
        finished = finished and bool(token_ids) and self._backend.is_special(token_ids[-1])
        ids = tuple(token_ids[:-1] if finished else token_ids)
        inquiry = Inquiry(
            ask=Ask(prompt, temperature=1.0, max_tokens=max(len(token_ids), 1)),
            caller=caller.at("estimates"),
            methods=self.methods,
            n_samples=N_SAMPLES,
            answer=Completion(ids, finished),
            are_optional=True,
        )
        try:
            work = await self._estimator.prepare(inquiry)
            outcome = await work.run(lambda *_: None)
        except RefusalError as error:
            return self.missing(str(error))
        return {
            name: {"value": finite(found.value), "exact": found.exact}
            for name, found in outcome.estimates.items()
        } | {name: _missing(reason) for name, reason in outcome.unavailable.items()}

    def missing(self, reason: str) -> Mapping[str, Any]:
        """What an answer says that cannot be judged."""
        return {name: _missing(reason) for name in self.methods}


def _missing(reason: str) -> dict[str, Any]:
    return {"value": None, "exact": False, "reason": reason}
