"""lm-eval's model `conf-score`, which asks a conf-server."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from jinja2.exceptions import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server.client import Client, Scored
from conf_server.integrations.context_groups import ContextGroup, context_groups
from conf_server.integrations.served_tokenizer import served_tokenizer

API_KEY_VARIABLE: Final = "VLLM_API_KEY"
"""Where the key is: lm-eval writes the arguments of a model into its results."""

UNSCORABLE: Final = 2
"""How many tokens fewer than the server's context length lm-eval's `max_length` is by default. The
server scores texts of one token fewer, and lm-eval does not count the last one of a text."""

Job = TypeVar("Job")
Answer = TypeVar("Answer")
Encoded = tuple[tuple[str, str] | None, list[int], list[int]]
"""What lm-eval knows a pair by in its cache, and the token ids of context and continuation."""

_logger = logging.getLogger(__name__)


@register_model("conf-score")
class ConfScore(TemplateLM):
    """Scores and generates with a conf-server, by the conventions of lm-eval's model `hf`.

    Token ids are made here and sent, so that the borders between contexts and continuations,
    prefix tokens and truncation are lm-eval's own. All continuations of one context travel in one
    request.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        model: str | None = None,
        tokenizer: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str = 1,
        num_concurrent: int = 8,
        max_retries: int = 5,
        timeout: float = 600.0,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        chat_template_args: Mapping[str, Any] | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | None = None,
        seed: int = 1234,
        revision: str = "main",
        trust_remote_code: bool = False,
        device: object = None,
        max_batch_size: object = None,
    ) -> None:
        """
        Args:
            base_url: the server's address, with or without /v1.
            model: the name of the model that is asked; None for the server's first.
            tokenizer: a folder or a name on the hub; None for the folder that the server's model
                comes from, if it is on this machine.
            max_length: most tokens that the model reads; None for what the server can score.
            max_gen_toks: most tokens of a generated text where the task does not say.
            batch_size: contexts in one request, each with all its continuations. "auto" is 1.
            num_concurrent: requests under way at once.
            max_retries: how often a request is sent again while the server is away or busy.
            timeout: seconds that one try of a request may take.
            add_bos_token, prefix_token_id, chat_template_args, enable_thinking, revision,
                trust_remote_code: as of `hf`.
            think_end_token: generated texts begin behind the last of these.
            seed: of generated texts, where a task samples them.
            device, max_batch_size: lm-eval gives them to all models; a server needs neither.

        Raises:
            ValueError: the tokenizer is not the server's, or an argument is not what it has to be.
            ServerError: the server refuses, or is away.
        """
        super().__init__()
        self._client = Client(
            base_url,
            api_key=os.environ.get(API_KEY_VARIABLE) or None,
            model=model,
            timeout=timeout,
            retries=max_retries,
            concurrency=num_concurrent,
            on_retry=lambda error: _logger.warning("%s; the request is sent again", error),
        )
        self.tokenizer = served_tokenizer(
            self._client, tokenizer, revision=revision, trust_remote_code=trust_remote_code
        )
        self.max_length = max_length or self._most_scored()
        self.max_gen_toks = max_gen_toks
        self._batch_size = 1 if str(batch_size).startswith("auto") else int(batch_size)
        self._num_concurrent = num_concurrent
        self._add_bos_token = add_bos_token
        self._prefix_token_id = prefix_token_id
        self._template_args = dict(chat_template_args or {})
        if enable_thinking is not None:
            self._template_args["enable_thinking"] = enable_thinking
        self._think_end_token = think_end_token
        self._seed = seed

    def _most_scored(self) -> int:
        length = self._client.served_model().max_model_len
        if length is None:
            raise ValueError("max_length: give it, because the server does not say its own")
        return length - UNSCORABLE

    # Tokens and templates.

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: as of `hf`, BOS or else EOS."""
        if self._prefix_token_id is not None:
            return self._prefix_token_id
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests: where the tokenizer comes from."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Token ids of a text, by the rules of `hf`.

        Args:
            add_special_tokens: None for `add_bos_token`, or for the tokenizer's way; a text that
                begins with the prefix token gets no other one.
        """
        if add_special_tokens is None:
            prefix = self.tokenizer.decode(self.prefix_token_id)
            has_prefix = has_bos_prefix(string, prefix)
            add_special_tokens = False if has_prefix else self._add_bos_token
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **special)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as text. Without its system message where the template refuses that, as `hf`."""
        try:
            return self._templated(chat_history, add_generation_prompt)
        except TemplateError:
            others = [message for message in chat_history if message["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            _logger.warning("The chat template takes no system message: it is left out")
            return self._templated(others, add_generation_prompt)

    def _templated(self, chat: list[dict[str, str]], add_generation_prompt: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self._template_args,
        )
        return str(text)

    # Log-probabilities.

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **_: object
    ) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether it is the greedy one) of each pair."""
        groups = list(context_groups((pair[1:] for pair in requests), self.max_length))
        batches = [
            groups[start : start + self._batch_size]
            for start in range(0, len(groups), self._batch_size)
        ]
        found: list[Any] = [None] * len(requests)
        with tqdm(total=len(requests), desc="Asking /v1/score", disable=disable_tqdm) as bar:
            for batch, scored in self._answers(self._scored, batches):
                for places, one in zip(_places(batch), scored, strict=True):
                    for place in places:
                        found[place] = self._kept(requests[place], one)
                    bar.update(len(places))
        return found

    def _scored(self, batch: Sequence[ContextGroup]) -> list[Scored]:
        items = [{"prompt": one.context, "completions": one.continuations} for one in batch]
        texts = sum(len(one.continuations) for one in batch)
        return self._client.score(items=items, batch_size=texts, mode="empty")

    def _kept(self, request: Encoded, scored: Scored) -> tuple[float, bool]:
        """The answer to a pair, which lm-eval's cache of answers has from now on."""
        key, context, continuation = request
        if scored.logprob is None or scored.is_greedy is None:
            raise ValueError(
                f"the server has no finite log-probability of {continuation} after {context}"
            )
        answer = (scored.logprob, scored.is_greedy)
        if key is not None:
            self.cache_hook.add_partial("loglikelihood", key, answer)
        return answer

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probabilities of whole texts in nats, each read in windows of `max_length`."""
        windows: list[Encoded] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            for pair in self._windows(*request.args):
                windows.append((None, *pair))
                owners.append(owner)
        sums = [0.0] * len(requests)
        answers = self._loglikelihood_tokens(windows, disable_tqdm)
        for owner, (logprob, _) in zip(owners, answers, strict=True):
            sums[owner] += logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        overlapping = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return map(make_disjoint_window, overlapping)

    # Texts.

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts that the model writes, up to the first of a task's stop sequences."""
        texts = []
        jobs = [request.args for request in requests]
        with tqdm(total=len(jobs), desc="Asking /v1/completions", disable=disable_tqdm) as bar:
            for job, text in self._answers(self._generated, jobs):
                self.cache_hook.add_partial("generate_until", job, text)
                texts.append(text)
                bar.update()
        return texts

    def _generated(self, job: tuple[str, dict[str, Any]]) -> str:
        context, given = job
        options: dict[str, Any] = dict(normalize_gen_kwargs(given, self.max_gen_toks))
        eos = self.tokenizer.decode(self.eot_token_id)
        until = handle_stop_sequences(options.pop("until"), eos=eos)
        max_tokens = options.pop("max_gen_toks")
        del options["do_sample"]  # It is said by the temperature.
        if max_tokens >= self.max_length:
            raise ValueError(f"max_gen_toks: {max_tokens}, no less than max_length")
        body = {
            "model": self._client.served_model().name,
            "prompt": self.tok_encode(context)[-(self.max_length - max_tokens) :],
            "max_tokens": max_tokens,
            "stop": [one for one in until if one not in ("", eos)],
            "seed": self._seed,
            "temperature": 0.0,
            **options,
        }
        answer = self._client.post("/v1/completions", body)
        text = answer["choices"][0]["text"]
        return postprocess_generated_text(text, until, self._think_end_token)

    def _answers(
        self, ask: Callable[[Job], Answer], jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, Answer]]:
        """Each job and its answer, in the order of the jobs, several under way at once."""
        with ThreadPoolExecutor(self._num_concurrent) as pool:
            tasks = [pool.submit(ask, job) for job in jobs]
            try:
                for job, task in zip(jobs, tasks, strict=True):
                    yield job, task.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _places(batch: Sequence[ContextGroup]) -> Iterator[tuple[int, ...]]:
    for group in batch:
        yield from group.places
