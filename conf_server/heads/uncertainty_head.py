"""A trained uncertainty head: its features, and the network that judges them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from conf_server.backends.base import Limits
from conf_server.concurrency import Cancelled, in_thread, raise_if
from conf_server.heads.features import FeatureRow, Floats, ModelShape
from conf_server.stats.forced import ForcedStates, ForcedText, WantedStates
from conf_server.uncertainty.evidence import HeadVerdict

Network = Callable[[Floats, int], Floats]
"""Features (n, width) and the row with which the answer begins -> logits, one for each of its
tokens, or one for all of it."""


class UncertaintyHead:
    """Judges answers of the model that it was trained on; one thread works on it.

    Attributes:
        name: luh's name of its kind.
        judges_tokens: it has a verdict on each of the answer's tokens, and not on the whole.
        top_n: how many of the likeliest tokens it reads at each of the answer's; 0 for none.
        reads_layers: it reads hidden states or attention weights.
    """

    def __init__(
        self,
        name: str,
        features: FeatureRow,
        shape: ModelShape,
        network: Network,
        *,
        judges_tokens: bool,
        reads_context: bool,
        max_values: int,
    ) -> None:
        """
        Args:
            reads_context: the network needs the prompt's rows too.
            max_values: most numbers of a text that the engine is asked for.
        """
        self.name = name
        self.judges_tokens = judges_tokens
        self.top_n = features.top_n
        self.reads_layers = features.reads_layers
        self._features = features
        self._shape = shape
        self._network = network
        self._reads_context = reads_context or features.reads_context
        self._max_values = max_values
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="uncertainty-head")

    def obstacle(self, limits: Limits) -> str | None:
        """Why a backend cannot give what the head reads; None where it can."""
        if limits.candidates < self.top_n:
            return (
                f"needs {self.top_n} candidates a token for its head: start with --max-logprobs "
                f"{self.top_n}"
            )
        if self.reads_layers and limits.states is not None:
            return f"needs hidden states for its head: {limits.states}"
        for layer in self._features.attentive:
            if reason := limits.attention[layer]:
                return f"needs attention weights for its head: layer {layer}: {reason}"
        return None

    def text(self, text: ForcedText) -> ForcedText:
        """What the model has to read: all but the answer's last token, of which nothing is read.

        Where the head needs the answer's rows alone, they are those of the text's completion, which
        begins with the prompt's last token: from that the model predicts the answer's first one.

        Args:
            text: prompt and answer; the prompt has at least one token.
        """
        before = text.num_context if self._reads_context else text.num_context - 1
        return ForcedText(text.token_ids[:-1], before)

    @property
    def wanted(self) -> WantedStates:
        """What the engine is asked for of that text."""
        return self._features.wanted(completion_only=not self._reads_context)

    def too_large(self, text: ForcedText) -> str | None:
        """Why so much is not asked for at once; None where it is.

        Args:
            text: as `text` returns it.
        """
        rows = len(text.token_ids) - (0 if self._reads_context else text.num_context)
        count = rows * self._features.numbers_of(self._shape)
        if count <= self._max_values:
            return None
        return (
            f"its head reads {count} numbers of prompt and answer, at most {self._max_values} "
            "(--max-hidden-state-values)"
        )

    async def judge(
        self, num_context: int, candidates: Floats, states: ForcedStates | None
    ) -> HeadVerdict:
        """What the head says of an answer.

        Args:
            num_context: the number of the prompt's tokens.
            candidates: (c, at least `top_n`) log-probabilities in nats, likeliest first, at each of
                the answer's c tokens.
            states: what the engine says of `text`; None if the head reads no layers.

        Raises:
            UnreadableError: a feature cannot be made of this text.
        """

        def work(cancelled: Cancelled) -> HeadVerdict:
            first = 0 if self._reads_context else num_context - 1
            rows = self._features.rows(num_context, first, candidates, states)
            raise_if(cancelled)
            logits = self._network(rows, num_context - 1 - first)
            return HeadVerdict(logits.astype(float), self.judges_tokens)

        return await in_thread(self._thread, work)
