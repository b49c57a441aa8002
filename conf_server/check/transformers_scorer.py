"""A causal language model in transformers and float32: the independent scorer of given tokens.

`conf-server check` holds the engine against it, and so do the tests; the benchmarks measure it
as what people do without a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from conf_server.settings import SettingsError


def load_tokenizer(path: str, hub: dict[str, Any]) -> Any:
    """The tokenizer of a model folder, or of a name on a hub.

    Raises:
        SettingsError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(path, **hub)
    except (OSError, ValueError) as error:
        raise SettingsError(f"no tokenizer in {path}: {error}") from error


def require_model(path: str, hub: dict[str, Any]) -> None:
    """Look for the model without loading its weights, so that a mistake costs no time.

    Raises:
        SettingsError: transformers finds no model there.
    """
    try:
        AutoConfig.from_pretrained(path, **hub)
    except (OSError, ValueError) as error:
        raise SettingsError(f"transformers finds no model in {path}: {error}") from error


class TransformersScorer:
    """Scores sequences of token ids by teacher forcing: one forward pass over each sequence.

    A sequence has n >= 2 tokens. Its first token is the condition of the others and is not scored:
    row t of every result is about token t + 1, given tokens 0 to t.

    Attributes:
        model: the transformers model, in float32 and in evaluation mode. Its weights may be
            changed, for example to merge an adapter into them.
        device: where it runs, as torch names it.
    """

    def __init__(self, path: str, device: str | None = None, **hub: Any) -> None:
        """
        Args:
            path: a model folder, or its name on a hub.
            device: torch's name; None takes a GPU where there is one.
            hub: further arguments of transformers' `from_pretrained`, for example `revision`.

        Raises:
            OSError, ValueError: what transformers raises where it cannot load the model.
        """
        # TF32 has 10 bits of mantissa, which is too coarse for a reference.
        torch.set_float32_matmul_precision("highest")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **hub)
        self.model = model.to(self.device).eval()

    def logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(n-1, V) float32 on the model's device: row t is the distribution of token t + 1."""
        ids = torch.tensor([list(token_ids)], device=self.device)
        with torch.inference_mode():
            logits: torch.Tensor = self.model(ids).logits[0, :-1]
        return logits

    def log_softmax(self, token_ids: Sequence[int], first: int = 1) -> NDArray[np.float64]:
        """(n-first, V) log-probabilities of the whole vocabulary, nats.

        The softmax is computed in float64, from the float32 logits.

        Args:
            first: index of the first token that is wanted, 1 <= first <= n.
        """
        rows = self.logits(token_ids)[first - 1 :]
        return rows.double().log_softmax(-1).cpu().numpy()

    def token_logprobs(self, token_ids: Sequence[int], first: int = 1) -> NDArray[np.float64]:
        """(n-first,) log-probabilities of the sequence's own tokens, nats.

        Args:
            first: index of the first token that is wanted, 1 <= first <= n.
        """
        rows = self.log_softmax(token_ids, first)
        return rows[np.arange(len(rows)), list(token_ids[first:])]

    def hidden_states(
        self, token_ids: Sequence[int], layers: Sequence[int], first: int
    ) -> NDArray[np.float32]:
        """(layers, n-first, d) of the tokens from `first` on; layer 0 is the embeddings."""
        ids = torch.tensor([list(token_ids)], device=self.device)
        with torch.inference_mode():
            states = self.model(ids, output_hidden_states=True).hidden_states
        return torch.stack([states[layer][0, first:] for layer in layers]).cpu().numpy()

    def attention(self, token_ids: Sequence[int], layers: Sequence[int]) -> NDArray[np.float32]:
        """(layers, heads, n, n) weights: row p is what token p pays to each token.

        Of transformers' attention implementations the eager one alone holds weights.
        """
        ids = torch.tensor([list(token_ids)], device=self.device)
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            with torch.inference_mode():
                weights = self.model(ids, output_attentions=True).attentions
        finally:
            self.model.set_attn_implementation(before)
        return torch.stack([weights[layer][0] for layer in layers]).cpu().numpy()
