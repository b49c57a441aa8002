r"""The process that `latex_process` starts: compares answers with math-verify until it is ended.

It reads lines of two answers each, as a JSON array, and answers each with `true`, `false` or, where
memory did not suffice, `null`; its first line says that it is ready.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, product
from typing import Any, Final

from conf_server.server_process import end_with

MEMORY: Final = 1 << 30
"""Bytes of address space. Past the import of SymPy the process has 0.1 GB."""
PARSED: Final = 1024
"""Answers whose parsed form is kept: the first of a group is compared with each that comes."""

_TEXT: Final = re.compile(r"\\(?:text\w{0,2}|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_COMMAND: Final = re.compile(r"\\[A-Za-z]+")
_WORD: Final = re.compile(r"[A-Za-z]{3,}")

Equal = Callable[[str, str], bool | None]


def main(arguments: Sequence[str]) -> None:
    """Answer until standard input ends.

    Args:
        arguments: the parent's process id.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all its processes
    end_with(int(arguments[0]))
    equal = comparison()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or most > MEMORY:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # What a library prints must not stand among the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(equal(*json.loads(line))), file=answers, flush=True)


def comparison() -> Equal:
    """What compares two answers: math-verify's `verify` in both directions, without a time limit.

    math-verify reads letters side by side as a product, so that "stop" is "pots" to it. Two
    answers that both have words of three or more letters are equal only if the words are the
    same, in the same order; names of LaTeX commands are no such words.

    Raises:
        ImportError: math-verify is not installed.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that nothing limits it
    # Plain expressions are left out: SymPy evaluates them as Python.
    reading = [LatexExtractionConfig(boxed_match_priority=0)]

    @lru_cache(PARSED)
    def parsed(answer: str) -> list[Any]:
        found = parse(f"${answer}$", reading, parsing_timeout=None)
        return [*found] or [answer]

    def equal(one: str, other: str) -> bool | None:
        words = _words(one), _words(other)
        if all(words) and words[0] != words[1]:
            return False
        forms = parsed(one), parsed(other)
        for gold, answer in chain(product(*forms), product(*reversed(forms))):
            try:
                if verify(
                    gold,
                    answer,
                    allow_set_relation_comp=True,
                    timeout_seconds=None,
                    raise_on_error=True,
                ):
                    return True
            except MemoryError:
                return None
            except Exception:  # what SymPy cannot compare is not equal, as math-verify has it
                continue
        return False

    return equal


def _words(answer: str) -> list[str]:
    return _WORD.findall(_COMMAND.sub(" ", _TEXT.sub(r" \1 ", answer)).lower())


if __name__ == "__main__":
    main(sys.argv[1:])
