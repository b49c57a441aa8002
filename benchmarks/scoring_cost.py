"""Table 2: what the log-probabilities of given texts cost, by the way they are asked for."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.load_client import QUIET_S, Client, Label, Results, Sample
from benchmarks.servers import CONF, MODEL_NAME, STOCK, Server, ServerError
from benchmarks.transformers_forward import TransformersProcess

TRANSFORMERS = "transformers"
PREFILL, PREFILL_AGAIN = "plain prefill, cold", "plain prefill, repeated"
STOCK_TOP_20 = "prompt_logprobs=20"
COLD, WARM, AGAIN = "/v1/score, cold", "/v1/score, known contexts", "/v1/score, repeated"
TOP_20_AGAIN = "/v1/score, repeated, per_token, top_logprobs=20"
FORWARD = "forward pass of each item"

LABELS: tuple[Label, ...] = (
    (STOCK, PREFILL),
    (STOCK, STOCK_TOP_20),
    (CONF, PREFILL),
    (CONF, PREFILL_AGAIN),
    (CONF, COLD),
    (CONF, WARM),
    (CONF, AGAIN),
    (CONF, TOP_20_AGAIN),
    (TRANSFORMERS, FORWARD),
)
# Any vocabulary in use has these ids, as ordinary tokens.
TOKEN_IDS = range(1_000, 30_000)


@dataclass(frozen=True)
class Case:
    """How much is scored: `completions` texts of 20 to 64 tokens over `contexts` contexts."""

    contexts: int = 4
    context_tokens: int = 1_500
    completions: int = 16

    def texts(self, seed: str, completions_seed: str = "") -> list[Text]:
        """Draw random ids. Each seed gives other texts, so that no cache has seen a new one's."""
        draw = random.Random(seed)
        contexts = [draw.choices(TOKEN_IDS, k=self.context_tokens) for _ in range(self.contexts)]
        draw = random.Random(completions_seed or seed + "completions")
        each = self.completions // self.contexts
        return [
            Text(context, [draw.choices(TOKEN_IDS, k=draw.randint(20, 64)) for _ in range(each)])
            for context in contexts
        ]


QUICK = Case(contexts=2, context_tokens=200, completions=4)


@dataclass(frozen=True)
class Text:
    """A context and what is scored after it, as token ids."""

    context: list[int]
    completions: list[list[int]]


class Step(NamedTuple):
    """One request of a round."""

    label: Label
    path: str
    texts: list[Text]
    body: bytes


def _sequences(texts: Sequence[Text]) -> list[list[int]]:
    return [text.context + completion for text in texts for completion in text.completions]


def _tokens(texts: Sequence[Text]) -> int:
    return sum(map(len, _sequences(texts)))


def _completions_body(texts: Sequence[Text], **fields: Any) -> bytes:
    request = {"model": MODEL_NAME, "prompt": _sequences(texts), "max_tokens": 1, "temperature": 0}
    return json.dumps(request | fields).encode()


def _score_body(texts: Sequence[Text], **fields: Any) -> bytes:
    items = [{"prompt": text.context, "completions": text.completions} for text in texts]
    return json.dumps({"model": MODEL_NAME, "items": items, **fields}).encode()


class Scoring:
    """The rounds of table 2. One request carries a whole case, whichever route it takes."""

    def __init__(
        self,
        client: Client,
        servers: Mapping[str, Server],
        reference: TransformersProcess | None,
        case: Case,
    ) -> None:
        self._client = client
        self._servers = servers
        self._reference = reference
        self._case = case
        labels = LABELS if reference else LABELS[:-1]
        self.results: Results = {label: [] for label in labels}
        # This is the largest distance of a mean log-probability from transformers', in nats.
        self.difference: float | None = None

    async def run(self, bar: tqdm, rounds: int) -> None:
        """Measure every method once a round. What is warm comes right after what warmed it."""
        for number in range(1, rounds + 1):
            families = [self._prefill(number), self._stock(number), self._score(number)]
            if number == 1:
                await self._warm_up()
            for family in random.Random(number).sample(families, len(families)):
                for step in family:
                    await self._take(bar, step)
            # Once is enough, because it takes minutes and is far from everything else.
            if self._reference and number == 1:
                await asyncio.sleep(QUIET_S)
                self._forward(bar, number)

    def _prefill(self, number: int) -> Iterator[Step]:
        texts = self._case.texts(f"prefill {number}")
        yield Step((CONF, PREFILL), "/v1/completions", texts, _completions_body(texts))
        yield Step((CONF, PREFILL_AGAIN), "/v1/completions", texts, _completions_body(texts))

    def _stock(self, number: int) -> Iterator[Step]:
        texts = self._case.texts(f"stock {number}")
        yield Step((STOCK, PREFILL), "/v1/completions", texts, _completions_body(texts))
        # This never reads the prefix cache, so it does not matter what is in there.
        body = _completions_body(texts, prompt_logprobs=20)
        yield Step((STOCK, STOCK_TOP_20), "/v1/completions", texts, body)

    def _score(self, number: int) -> Iterator[Step]:
        seed = f"score {number}"
        texts = self._case.texts(seed)
        others = self._case.texts(seed, f"other completions {number}")
        yield Step((CONF, COLD), "/v1/score", texts, _score_body(texts))
        yield Step((CONF, WARM), "/v1/score", others, _score_body(others))
        yield Step((CONF, AGAIN), "/v1/score", texts, _score_body(texts))
        body = _score_body(texts, mode="per_token", top_logprobs=20)
        yield Step((CONF, TOP_20_AGAIN), "/v1/score", texts, body)

    async def _take(self, bar: tqdm, step: Step) -> None:
        bar.set_postfix_str(f"score: {' '.join(step.label)}")
        items = self._case.completions
        taken, answers = await self._client.measure(
            self._servers[step.label[0]],
            step.path,
            [step.body],
            concurrency=1,
            tokens=_tokens(step.texts),
            items=items,
        )
        answer = json.loads(answers[0])
        if len(answer.get("choices", answer.get("data"))) != items:
            raise ServerError(f"{step.label} answered {answers[0][:1000]!r}")
        self.results[step.label].append(taken)
        if step.label == (CONF, COLD):
            self._scored = [result["mean_logprob"] for result in answer["data"]]
        bar.update()

    def _forward(self, bar: tqdm, number: int) -> None:
        """Time transformers on the texts that were just scored, and compare what it says."""
        assert self._reference is not None
        bar.set_postfix_str(f"score: {TRANSFORMERS}")
        texts = self._case.texts(f"score {number}")
        answer = self._reference.score(
            [(text.context, completion) for text in texts for completion in text.completions]
        )
        taken = Sample(
            answer.seconds,
            {"api": answer.cpu_seconds},
            tokens=_tokens(texts),
            items=self._case.completions,
            received=0,
        )
        self.results[TRANSFORMERS, FORWARD].append(taken)
        pairs = zip(self._scored, answer.mean_logprobs, strict=True)
        self.difference = max(abs(ours - theirs) for ours, theirs in pairs)
        bar.update()

    async def _warm_up(self) -> None:
        small = Case(contexts=1, context_tokens=100, completions=2).texts("warm-up")
        completions = [_completions_body(small), _completions_body(small, prompt_logprobs=20)]
        await self._client.send(self._servers[STOCK], "/v1/completions", completions, 1)
        await self._client.send(self._servers[CONF], "/v1/completions", completions[:1], 1)
        await self._client.send(self._servers[CONF], "/v1/score", [_score_body(small)], 1)


def baseline(label: Label) -> Label:
    """Return what a ratio is against: the same server's cold prefill of as many tokens."""
    return (label[0] if label[0] == STOCK else CONF, PREFILL)


def steps(rounds: int, with_transformers: bool) -> int:
    """Return how often `run` moves the progress bar."""
    return rounds * (len(LABELS) - 1) + with_transformers
