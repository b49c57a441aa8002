"""The texts that are read: prose, code, many scripts, a chat, and what the user adds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

QUESTION: Final = "What is the capital of France?"

SHORT: Final = "The capital of France is"

PROSE: Final = (
    "The lighthouse at the end of the harbour had not been lit for eleven years when the old "
    "keeper came back to it. He carried a lamp, a loaf of bread and a book that he had already "
    "read twice. From the gallery he could see the whole bay: the fishing boats that lay on their "
    "sides in the mud, the church with its crooked tower, and far out, where the water changed "
    "its colour, the reef on which three ships had broken in a single winter. Nobody in the "
    "village remembered their names any more. He did. He had written them on the inside of the "
    "door with a piece of chalk, and every evening, before he climbed the stairs, he read them "
    "aloud, as other people say a prayer. When the storm arrived on the second night it came from "
    "the north, without any warning, and it brought so much rain that the windows seemed to have "
    "turned to water. He lit the lamp, because that is what a keeper does, and he sat down beside "
    "it with his book, and he began to read it for the third time. Towards morning a ship passed "
    "so close to the reef that he could hear the voices of the men on her deck. He did not wave. "
    "He held the lamp as high as he could, and he counted the seconds until the voices were gone, "
    "and then he counted them once more, because he did not trust the first number. At eight "
    "o'clock the rain stopped. There were 17 boats in the harbour, as there had been the evening "
    "before, and 3 names on the door."
)

SCRIPTS: Final = (
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας. 東京は日本の首都です。北京是中国的首都。"
    "Москва — столица России. Ça coûte 5 € à Zürich, señor! 🙂🚀🇫🇷 नमस्ते दुनिया"
)

CODE: Final = '''\
def binary_search(values: list[int], wanted: int) -> int | None:
    """Index of `wanted` in sorted `values`, None if it is not there."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(values) and values[low] == wanted else None
'''


class TextsError(ValueError):
    """A file of texts that cannot be used. The message names it."""


def texts_of(path: Path) -> dict[str, str]:
    """The texts of a file, one a line, named `line N` with N counted from 1.

    Empty lines are left out. A line ends with LF or CR LF, and with none of the other characters
    that end one in Unicode. A byte-order mark is no part of the first line.

    Raises:
        TextsError: there is no such file, it is not UTF-8, or it holds no text.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TextsError(f"--texts {path}: {error}") from error
    lines = content.replace("\r\n", "\n").split("\n")
    texts = {f"line {number}": line for number, line in enumerate(lines, 1) if line.strip()}
    if not texts:
        raise TextsError(f"--texts {path}: no text in it")
    return texts


def tokenized(
    tokenizer: Any, extra: Mapping[str, str], limit: int, block_size: int, new_tokens: int
) -> dict[str, list[int]]:
    """The token ids of the fixed texts and of the user's, by the names of the texts.

    The text `border` is as long as it must be for its generation to cross from one block of the
    prefix cache into the next.

    Args:
        extra: the user's texts by their names.
        limit: where to cut texts, in tokens.
        block_size: how many tokens a block of the prefix cache holds.
        new_tokens: how many tokens will be generated for each text.
    """
    texts = {"short": SHORT, "prose": PROSE, "scripts": SCRIPTS, "code": CODE, **extra}
    ids: dict[str, list[int]] = {name: tokenizer.encode(text) for name, text in texts.items()}
    if getattr(tokenizer, "chat_template", None):
        ids["chat"] = _chat(tokenizer)
    half = new_tokens // 2
    border = block_size * (half // block_size + 1) - half
    if border <= len(ids["prose"]):
        ids["border"] = ids["prose"][:border]
    return {name: tokens[:limit] for name, tokens in ids.items() if tokens}


def _chat(tokenizer: Any) -> list[int]:
    # The template writes its own special tokens.
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
