"""The tokenizer of the model that a server serves, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from conf_server.client import Client

_PROBE: Final = "  Zwölf naïve Boxkämpfer: 1234567 + x_9 != [π]\n\t日本語 don't\n\n"
"""A text that two tokenizers hardly ever cut into the same tokens."""


def served_tokenizer(client: Client, name: str | None, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer, and see that it is the server's.

    Args:
        name: a folder or a name on the hub; None for the folder that the server says its model
            comes from.
        options: of `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: no tokenizer is named and there is no such folder here, or the server makes
            other tokens of a text.
    """
    name = name or _folder(client)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **options)
    own = tokenizer.encode(_PROBE, add_special_tokens=False)
    scored = client.score(prompt="", completion=_PROBE, add_special_tokens=False, mode="per_token")
    theirs = [token.token_id for token in scored.tokens or ()]
    if own != theirs:
        raise ValueError(
            f"tokenizer={name}: it is not the server's. A text of {len(_PROBE)} characters is "
            f"{own} here and {theirs} there."
        )
    return tokenizer


def _folder(client: Client) -> str:
    root = client.served_model().root
    if root is None or not Path(root).is_dir():
        raise ValueError(
            f"tokenizer: name it, because the server's model comes from {root}, which is no "
            "folder on this machine"
        )
    return root
