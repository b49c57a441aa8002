"""Which methods a request gets, and why it does not get the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from conf_server.backends.base import Chat, Limits, Prompt
from conf_server.gathering.inquiry import Inquiry
from conf_server.heads.uncertainty_head import UncertaintyHead
from conf_server.judges.base import Judge
from conf_server.refusal import RefusalError
from conf_server.uncertainty.fitted import Fitted
from conf_server.uncertainty.layers import ATTENTIVE
from conf_server.uncertainty.needs import Asks, Need
from conf_server.uncertainty.registry import Method, resolve

ALTERNATIVES: Final = 10
"""Candidates of each token that `claim_conditioned_probability` weighs: lm-polygraph's number."""

_FLAGS: Final = {
    "embedding": "--embedding-model PATH",
    "nli": "--nli-model PATH",
    "hidden_states": "--enable-hidden-states",
}


@dataclass(frozen=True)
class Plan:
    """What a request gets.

    Attributes:
        methods: those that can be had.
        unavailable: methods of a group that cannot be had, and why.
        similarity: name of the judge; None where nobody has to compare texts.
        n_samples: how many samples, and repeated answers, the methods get.
    """

    methods: tuple[Method, ...]
    unavailable: Mapping[str, str]
    similarity: str | None
    n_samples: int

    @property
    def needs(self) -> frozenset[Need]:
        """Of all methods together."""
        return frozenset(need for method in self.methods for need in method.needs)

    @property
    def asks(self) -> Asks:
        """What has to be asked for all methods together."""
        return all_asks(self.needs)


def all_asks(needs: frozenset[Need]) -> Asks:
    """What has to be asked for needs together."""
    asks = Asks.NOTHING
    for need in needs:
        asks |= need.asks
    return asks


class Planner:
    """Knows what a backend and its judges can do."""

    def __init__(
        self,
        limits: Limits,
        judges: Mapping[str, Judge],
        *,
        fitted: Fitted | None = None,
        head: UncertaintyHead | None = None,
    ) -> None:
        """
        Args:
            fitted: what a fit has learned; None without one.
            head: the trained one; None without one.
        """
        self._limits = limits
        self._judges = judges
        self._fitted = fitted
        self._head = head

    @property
    def default_similarity(self) -> str:
        """The best judge that is there without a further model, or a model that was given."""
        can_self_judge = self._limits.has_chat_template and self._limits.forcing is None
        for name in ("nli", "self_nli"):
            if name in self._judges and (name != "self_nli" or can_self_judge):
                return name
        return "rouge_l"

    def obstacle(self, method: Method, similarity: str) -> str | None:
        """Why a method cannot be had here, with such a judge; None where it can."""
        asks = all_asks(method.needs)
        if Asks.STATISTICS in asks and self._limits.statistics is not None:
            return f"needs exact token statistics: {self._limits.statistics}"
        if Asks.CANDIDATES in asks and self._limits.candidates < ALTERNATIVES:
            return (
                f"needs {ALTERNATIVES} candidates a token: start with --max-logprobs {ALTERNATIVES}"
            )
        if Asks.STATES in asks and self._limits.states is not None:
            return f"needs hidden states: {self._limits.states}"
        if Asks.ATTENTION in asks and (reason := self._without_attention(method)):
            return f"needs attention weights: {reason}"
        if Asks.FITTED in asks and (reason := self._not_fitted(method)):
            return reason
        if Asks.HEAD in asks and (reason := self._without_head()):
            return reason
        judged_here = Asks.JUDGE in asks and self._judges[similarity].asks_model
        if Asks.FORCING in asks or judged_here:
            return self._limits.forcing
        return None

    def _without_attention(self, method: Method) -> str | None:
        """Why the layers whose attention a method looks at do not give their weights."""
        limits = self._limits
        if limits.states is not None:
            return limits.states
        for need, layers in ATTENTIVE.items():
            for layer in layers(limits.num_layers) if need in method.needs else ():
                if reason := limits.attention[layer]:
                    return f"layer {layer}: {reason}"
        return None

    def _not_fitted(self, method: Method) -> str | None:
        if self._fitted is None:
            return (
                "has to be fitted: start with --fitted DIR, a folder that `conf-server fit` writes"
            )
        if method.name not in self._fitted.methods:
            there = ", ".join(self._fitted.methods)
            return f"has not been fitted: in the folder of --fitted there is {there}"
        return None

    def _without_head(self) -> str | None:
        """Why no trained head can judge an answer."""
        if self._head is None:
            return (
                "needs a trained head: start with --uhead DIR, a folder that `conf-server fit "
                "--methods uhead` or the luh package has written for this model"
            )
        return self._head.obstacle(self._limits)

    def plan(self, inquiry: Inquiry) -> Plan:
        """The plan of one request.

        Raises:
            RefusalError: an unknown name, or a method asked for by name that cannot be had.
        """
        prompt = inquiry.ask.prompt
        try:
            methods = resolve(inquiry.methods)
        except KeyError as error:
            raise RefusalError(
                "uncertainty.methods",
                f"no method or group {error.args[0]!r}; GET /v1/uncertainty/methods lists them.",
                error.args[0],
            ) from None
        judge = self._judge_name(inquiry.similarity)
        obstacles = {
            method.name: self.obstacle(method, judge)
            or self._untextual(method, judge, prompt)
            or self._of_another_model(method, inquiry.caller.model)
            for method in methods
        }
        unavailable = {name: reason for name, reason in obstacles.items() if reason}
        for name in () if inquiry.are_optional else inquiry.methods:
            if name in unavailable:
                raise RefusalError(
                    "uncertainty.methods",
                    f"{name} {unavailable[name]}.",
                    name,
                )
        kept = tuple(method for method in methods if method.name not in unavailable)
        asks = all_asks(frozenset(need for method in kept for need in method.needs))
        return Plan(
            methods=kept,
            unavailable=unavailable,
            similarity=judge if Asks.JUDGE in asks else None,
            n_samples=inquiry.num_samples if asks & (Asks.SAMPLES | Asks.REPEATS) else 0,
        )

    def _judge_name(self, name: str | None) -> str:
        if name is None:
            return self.default_similarity
        if name in self._judges:
            return name
        if name in _FLAGS:
            hint = f"start conf-server with {_FLAGS[name]}"
        else:
            hint = f"this server has {', '.join(sorted(self._judges))}"
        raise RefusalError("uncertainty.similarity", f"no {name!r} here; {hint}.", name)

    def _untextual(self, method: Method, similarity: str, prompt: Prompt) -> str | None:
        """Why a method cannot be asked about a prompt: what it would quote is not all text."""
        asks = all_asks(method.needs)
        quotes = Asks.QUOTES in asks
        if not quotes and not (Asks.JUDGE in asks and self._judges[similarity].asks_model):
            return None
        path = first_untextual(prompt)
        if path is None:
            return None
        who = "quotes the question" if quotes else f"is judged by {similarity}, which quotes it"
        return f"{who}, and `{path}` is no text"

    def _of_another_model(self, method: Method, model: str | None) -> str | None:
        """Why what was learned says nothing of the model that is asked: it is an adapter."""
        learned = Asks.FITTED | Asks.HEAD
        if not learned & all_asks(method.needs) or model not in self._limits.adapters:
            return None
        return f"was fitted on the model itself, not on its adapter {model}"


def first_untextual(prompt: Prompt) -> str | None:
    """Path of the first part of a chat that is no text; None where all is text."""
    for i, message in enumerate(prompt.messages if isinstance(prompt, Chat) else ()):
        content = message.get("content")
        for j, part in enumerate(content if isinstance(content, list) else ()):
            text = part.get("text") if isinstance(part, dict) else part
            if not isinstance(text, str):
                return f"messages.{i}.content.{j}"
    return None
