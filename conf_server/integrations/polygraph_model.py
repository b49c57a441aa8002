"""Stands for a model of transformers in lm-polygraph's WhiteboxModel, and asks a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from conf_server.client import Client
from conf_server.integrations.polygraph_generation import Decoding, generated

PROBE: Final = "Zürich's  1,234 trains\n\tdon't stop; naïve café? 東京 – def f(x): return x**2 😀"
"""A text that two tokenizers hardly ever cut alike."""

_UNUSED: Final = frozenset(
    {
        # What a model that runs here would compute with.
        *("use_cache", "pad_token_id", "eos_token_id", "logits_processor"),
        # Asked of every answer; what comes back has the tokens alone.
        *("return_dict_in_generate",),
    }
)


class ServedCausalLM:
    """Stands where a `WhiteboxModel` of lm-polygraph has its transformers model.

    It generates, which is what `generate_texts` needs, and it has the client that our stat
    calculators ask. It has no logits, hidden states or attention: who wants them is refused.

    Attributes:
        client: the server.
        config, generation_config: the model's, as transformers reads them.
        device: where tokens are; lm-polygraph puts its own small models there too.
        end_ids: tokens that end an answer.
        pad_id: fills up the shorter answers of a batch.
    """

    def __init__(
        self,
        client: Client,
        config: Any,
        generation_config: GenerationConfig,
        tokenizer: Any,
        device: str = "cpu",
    ) -> None:
        self.client = client
        self.config = config
        self.generation_config = generation_config
        self.device = torch.device(device)
        ends = generation_config.eos_token_id
        if ends is None:
            ends = tokenizer.eos_token_id
        self.end_ids: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else (ends,)
        self.pad_id: int = tokenizer.pad_token_id
        self.vocabulary: int = config.get_text_config().vocab_size

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        num_return_sequences: int = 1,
        **options: Any,
    ) -> SimpleNamespace:
        """Prompts with their answers, as `generate` of transformers gives them.

        Returns:
            `sequences`, int64 of shape (prompts * num_return_sequences, tokens), and `scores`,
            which is None.

        Raises:
            ValueError: an option is not one that the server can be asked.
            NotImplementedError: the caller wants scores, hidden states or attention.
        """
        refuse_inner_states(options)
        answers = generated(
            self.client,
            unpadded(input_ids, attention_mask),
            decoding_of(options),
            n=num_return_sequences,
        )
        longest = max(len(one.tokens) for row in answers for one in row)
        rows = [
            [*prompt.tolist(), *one.tokens, *[self.pad_id] * (longest - len(one.tokens))]
            for prompt, row in zip(input_ids, answers, strict=True)
            for one in row
        ]
        return SimpleNamespace(sequences=torch.tensor(rows), scores=None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """
        Raises:
            NotImplementedError: always; a server has no logits for its clients.
        """
        raise NotImplementedError(_refusal("logits"))


def load_tokenizer(model_path: str, **options: Any) -> Any:
    """The served model's tokenizer, as lm-polygraph wants it: padding on the left."""
    tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left", **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model_path: str,
    base_url: str = "http://localhost:8000",
    *,
    device: str = "cpu",
    **client_options: Any,
) -> ServedCausalLM:
    """A served model, in place of one that transformers would load.

    Args:
        model_path: folder or name of the model that the server runs. Its tokenizer and
            configuration are read from there, never its weights.
        base_url: the server.
        device: where lm-polygraph's own models for comparing texts shall run.
        client_options: those of `conf_server.client.Client`: `api_key`, `model`, `timeout`, ...

    Raises:
        ValueError: the server's model has another tokenizer.
        ServerError, UnavailableError: the server refuses, or is not there.
    """
    tokenizer = load_tokenizer(model_path)
    client = Client(base_url, **client_options)
    _check_tokenizer(client, tokenizer, model_path)
    config = AutoConfig.from_pretrained(model_path)
    return ServedCausalLM(client, config, _generation_config(model_path, config), tokenizer, device)


@dataclass(frozen=True)
class _Options:
    """Those of `generate` of transformers that a server can be asked."""

    max_new_tokens: int
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    allow_newlines: bool = True
    stop_strings: Sequence[str] | None = None


def decoding_of(options: Mapping[str, Any]) -> Decoding:
    """The decoding that options of `generate`, or lm-polygraph's GenerationParameters, ask for.

    A draw takes its seed from torch, so that `transformers.set_seed` makes runs repeatable.

    Raises:
        ValueError: an option is unknown, or has a value that no server is asked.
    """
    known = _Options.__dataclass_fields__
    given = {name: value for name, value in options.items() if name not in _UNUSED}
    unknown = sorted(name for name in given if name not in known)
    if unknown:
        raise ValueError(f"{unknown[0]}: a served model cannot be asked that")
    wanted = _Options(**given)
    only = {"num_beams": 1, "repetition_penalty": 1.0, "presence_penalty": 0.0}
    for name, value in {**only, "allow_newlines": True}.items():
        if getattr(wanted, name) != value:
            # Each of them changes the distributions that lm-polygraph's statistics are of.
            raise ValueError(f"{name}: a served model has exact statistics for {value!r} alone")
    return Decoding(
        max_new_tokens=wanted.max_new_tokens,
        min_new_tokens=wanted.min_new_tokens,
        temperature=wanted.temperature if wanted.do_sample else 0.0,
        top_k=(wanted.top_k or 0) if wanted.do_sample else 0,
        top_p=wanted.top_p if wanted.do_sample else 1.0,
        stop=tuple(wanted.stop_strings or ()),
        seed=int(torch.randint(2**31 - 1, ())) if wanted.do_sample else None,
    )


def unpadded(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[list[int]]:
    """The token ids of each prompt of a batch, without what it was padded with."""
    return [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]


def refuse_inner_states(options: dict[str, Any]) -> None:
    """Take out of the options which outputs are wanted.

    Raises:
        NotImplementedError: one of them is wanted.
    """
    names = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
    for name in names:
        if options.pop(name, False):
            raise NotImplementedError(_refusal(name.removeprefix("output_")))


def _refusal(what: str) -> str:
    return (
        f"a served model gives no {what} to lm-polygraph's own calculators: register those of "
        "conf_server.integrations.lm_polygraph (docs/lm-polygraph.md says which estimators they "
        "serve)"
    )


def _generation_config(model_path: str, config: Any) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(model_path)
    except OSError:
        # Models without the file have it in their configuration, as transformers does it.
        return GenerationConfig.from_model_config(config)


def _check_tokenizer(client: Client, tokenizer: Any, model_path: str) -> None:
    """Ids of another vocabulary would give numbers, and all of them would be wrong."""
    here = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    options: dict[str, Any] = {"add_special_tokens": False, "mode": "per_token", "metrics": []}
    scored = client.score(prompt="", completion=PROBE, **options)
    there = [token.token_id for token in scored.tokens or ()]
    if here != there:
        name = client.served_model().root or client.served_model().name
        raise ValueError(f"{model_path}: not the tokenizer of the served model {name}")
