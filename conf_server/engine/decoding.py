"""Text of single tokens, as vLLM's log-probabilities show it."""

from collections.abc import Sequence

from vllm.tokenizers import TokenizerLike
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.logprobs import LogprobsProcessor


class TokenDecoder:
    """Decodes the token and the candidates at each position of one sequence.

    A character split over several tokens belongs to the token that completes it, the
    others are empty: vLLM's rule, so that joined tokens give the text.
    """

    _CONTEXT = 4  # tokens: the longest UTF-8 character

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = tokenizer
        self._verifier = LogprobsProcessor(
            tokenizer=tokenizer,
            logprobs=None,
            prompt_logprobs=None,
            cumulative_logprob=None,
            num_logprobs=None,
            num_prompt_logprobs=None,
        )

    def decode(self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
        """Text of every id in `rows`.

        Args:
            rows: one list of ids per position; the first is the sequence's own token.
            context: tokens of the sequence before the first row, oldest first.
        """
        decoded = iter(
            convert_ids_list_to_tokens(self._tokenizer, [i for row in rows for i in row])
        )
        history = list(context)[-self._CONTEXT :]
        texts = []
        for row in rows:
            row_texts = [next(decoded) for _ in row]
            if any(text.endswith("�") for text in row_texts):
                row_texts = self._verifier._verify_tokens(row_texts, list(row), history)
            texts.append(row_texts)
            history = [*history, row[0]][-self._CONTEXT :]
        return texts
