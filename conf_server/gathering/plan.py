"""Which methods a request gets, and why it does not get the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from conf_server.backends.base import Chat, Limits, Prompt
from conf_server.backends.paired import NO_SCORER, Choice, Readers, Side
from conf_server.gathering.inquiry import Inquiry
from conf_server.heads.uncertainty_head import UncertaintyHead
from conf_server.judges.base import Judge
from conf_server.refusal import RefusalError
from conf_server.uncertainty.fitted import Fitted
from conf_server.uncertainty.layers import ATTENTIVE
from conf_server.uncertainty.needs import READING, Asks, Need
from conf_server.uncertainty.registry import Method, resolve

ALTERNATIVES: Final = 10
"""Candidates of each token that `claim_conditioned_probability` weighs: lm-polygraph's number."""

READ: Final = READING | Asks.FORCING
"""What either the engine or a scorer can be asked for."""

OF_ANY_MODEL: Final = frozenset({Need.SAMPLE_STATES, Need.SELF_ATTENTION})
"""Needs that another model than the one that has answered can meet: it reads the texts, and nothing
of it is put beside the tokens, or the fit, of the model that has answered."""

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
        sides: who is asked for a need that takes a text to be read; the engine for others.
    """

    methods: tuple[Method, ...]
    unavailable: Mapping[str, str]
    similarity: str | None
    n_samples: int
    sides: Mapping[Need, Side] = field(default_factory=dict)

    def side_of(self, method: Method) -> Side:
        """The scorer, if the method takes anything from it; else the engine."""
        used = {self.sides.get(need) for need in method.needs}
        return Side.SCORER if Side.SCORER in used else Side.ENGINE

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
        readers: Readers | None = None,
        fitted: Fitted | None = None,
        head: UncertaintyHead | None = None,
    ) -> None:
        """
        Args:
            limits: of the engine.
            readers: those who can read texts; None for the engine alone.
            fitted: what a fit has learned; None without one.
            head: the trained one; None without one.
        """
        self._limits = limits
        self._readers = readers or Readers(limits)
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

    def obstacle(
        self,
        method: Method,
        similarity: str,
        only: Side | None = None,
        model: str | None = None,
    ) -> str | None:
        """Why a method cannot be had here, with such a judge; None where it can.

        Args:
            only: who has to read what has to be read; None for whoever can.
            model: the served model or adapter that is asked.
        """
        asks = all_asks(method.needs)
        if Asks.STATISTICS in asks and self._limits.statistics is not None:
            return f"needs exact token statistics: {self._limits.statistics}"
        if Asks.CANDIDATES in asks and self._limits.candidates < ALTERNATIVES:
            return (
                f"needs {ALTERNATIVES} candidates a token: start with --max-logprobs {ALTERNATIVES}"
            )
        inner = Asks.STATES | Asks.ATTENTION
        if reason := self._unread(method, inner, only, model):
            return reason
        if Asks.FITTED in asks and (reason := self._not_fitted(method)):
            return reason
        if Asks.HEAD in asks and (reason := self._without_head()):
            return reason
        if reason := self._unread(method, READ, only, model):
            return reason
        judged_here = Asks.JUDGE in asks and self._judges[similarity].asks_model
        return self._limits.forcing if judged_here else None

    def sides(
        self, needs: Iterable[Need], only: Side | None = None, model: str | None = None
    ) -> dict[Need, Side]:
        """Who is asked for each need that takes a text to be read, and that can be met."""
        found = {}
        for need in needs:
            side = self._choice(need, only, model).side if need.asks & READ else None
            if side is not None:
                found[need] = side
        return found

    def side(self, method: Method) -> Side | None:
        """Who reads what a method wants to be read; None where it wants nothing, or nobody can."""
        sides = self.sides(method.needs).values()
        return max(sides, key=list(Side).index, default=None)

    def _unread(
        self, method: Method, asks: Asks, only: Side | None, model: str | None
    ) -> str | None:
        """Why nobody can read what a method wants to be read; None where somebody can."""
        for need in sorted(method.needs):
            if need.asks & asks:
                choice = self._choice(need, only, model)
                if choice.side is None:
                    return choice.reason
        return None

    def _choice(self, need: Need, only: Side | None, model: str | None) -> Choice:
        readers = self._readers.for_model(model)
        obstacle = partial(self._unmet, need)
        return readers.choose(obstacle, only, any_model=need in OF_ANY_MODEL)

    def _unmet(self, need: Need, limits: Limits) -> str | None:
        """Why somebody with such limits cannot read what a need wants."""
        if Asks.STATES in need.asks and limits.states is not None:
            return f"needs hidden states: {limits.states}"
        if Asks.ATTENTION in need.asks and (reason := _without_attention(need, limits)):
            return f"needs attention weights: {reason}"
        if Asks.HEAD in need.asks and self._head is not None:
            # The candidates are those of the answer, which is the engine's.
            return self._head.obstacle(replace(limits, candidates=self._limits.candidates))
        return limits.forcing if Asks.FORCING in need.asks else None

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
        if self._head is None:
            return (
                "needs a trained head: start with --uhead DIR, a folder that `conf-server fit "
                "--methods uhead` or the luh package has written for this model"
            )
        return None

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
        only, model = inquiry.backend, inquiry.caller.model
        if only is Side.SCORER and self._readers.scorer is None:
            raise RefusalError("uncertainty.backend", f"{NO_SCORER}.", only.value)
        obstacles = {
            method.name: self.obstacle(method, judge, only, model)
            or self._untextual(method, judge, prompt)
            or self._of_another_model(method, model)
            for method in methods
        }
        unavailable = {name: reason for name, reason in obstacles.items() if reason}
        for method in () if inquiry.are_optional else methods:
            if method.name in unavailable and method.name in inquiry.methods:
                raise self._refusal(method, judge, unavailable[method.name], only, model)
        kept = tuple(method for method in methods if method.name not in unavailable)
        asks = all_asks(frozenset(need for method in kept for need in method.needs))
        return Plan(
            methods=kept,
            unavailable=unavailable,
            similarity=judge if Asks.JUDGE in asks else None,
            n_samples=inquiry.num_samples if asks & (Asks.SAMPLES | Asks.REPEATS) else 0,
            sides=self.sides({need for method in kept for need in method.needs}, only, model),
        )

    def _refusal(
        self, method: Method, judge: str, reason: str, only: Side | None, model: str | None
    ) -> RefusalError:
        """Of a method that is asked for by name: the field that stands in its way."""
        if only is not None and self.obstacle(method, judge, None, model) is None:
            return RefusalError("uncertainty.backend", f"{method.name} {reason}.", only.value)
        return RefusalError("uncertainty.methods", f"{method.name} {reason}.", method.name)

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


def _without_attention(need: Need, limits: Limits) -> str | None:
    """Why the layers whose attention a need looks at do not give their weights."""
    if limits.states is not None:
        return limits.states
    for layer in ATTENTIVE[need](limits.num_layers):
        if reason := limits.attention[layer]:
            return f"layer {layer}: {reason}"
    return None


def first_untextual(prompt: Prompt) -> str | None:
    """Path of the first part of a chat that is no text; None where all is text."""
    for i, message in enumerate(prompt.messages if isinstance(prompt, Chat) else ()):
        content = message.get("content")
        for j, part in enumerate(content if isinstance(content, list) else ()):
            text = part.get("text") if isinstance(part, dict) else part
            if not isinstance(text, str):
                return f"messages.{i}.content.{j}"
    return None
