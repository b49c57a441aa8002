r"""Answers that a client's pattern finds: `extract: regex`, with RE2.

A client's pattern runs in everybody's server, so the engine must be one without backtracking.
RE2 takes linear time for one match, but all matches of `a(.*b)?` in a text of a's take quadratic
time: each looks for a "b" to the end. The last match is therefore found in one go, by
`(?:(PATTERN)|.)*` from the start: at each position the pattern if it matches there, else one
character, as a search for all matches goes. An empty match is none. (A pattern that would rather
match nothing, such as `a*?b*?`, may so be found at other places than by such a search.)

What one pass costs is bounded by how much is read and by how large a program a pattern becomes.
On one core, the worst of the patterns that are let through took one to two seconds, those that
people write milliseconds. RE2 frees the interpreter while it runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Final

from conf_server.refusal import RefusalError

FIELD: Final = "think.answer.pattern"
LONGEST_PATTERN: Final = 1000
"""Characters."""
MOST_GROUPS: Final = 9
"""The time for a character grows with the groups, too."""
LARGEST_PROGRAM: Final = 2500
"""Instructions: some sixty for a pattern that people write, a thousand for each `\\pL`."""
MEMORY: Final = 1 << 18
"""Bytes that RE2 may use for a pattern. It compiles none that is much larger than the largest."""


def regex_finder(pattern: str) -> Callable[[str, int], str | None]:
    """What finds, from a place of a text on, the last match that is not empty.

    Of that match the group named `answer` counts; without one, the first group that took part in
    the match; of a pattern without groups, the whole match. What stands before the place is
    seen: `^` matches at the beginning of the whole text alone.

    Raises:
        RefusalError: it is no pattern of RE2's, or too large, or RE2 is not installed.
    """
    if importlib.util.find_spec("re2") is None:
        raise RefusalError(
            "think.answer.extract", "regex needs google-re2: pip install 'conf-server[server]'"
        )
    if len(pattern) > LONGEST_PATTERN:
        raise RefusalError(FIELD, f"it has more than {LONGEST_PATTERN} characters")
    alone = _compiled(pattern)
    if alone.groups > MOST_GROUPS:
        raise RefusalError(FIELD, f"it has more than {MOST_GROUPS} groups; (?:...) is none")
    try:
        every = _compiled(rf"(?:({pattern})|(?s:.))*\z")
    except RefusalError as error:
        raise RefusalError(FIELD, r"it is too large, or a \Q in it is not closed") from error
    if every.programsize > LARGEST_PROGRAM:
        raise RefusalError(FIELD, "it is too large: it becomes too many instructions of RE2's")
    named = "answer" in alone.groupindex

    def find(text: str, start: int) -> str | None:
        found = every.match(text, start)
        if found is None or not found[1]:
            return None
        if not alone.groups:
            return str(found[1])
        # Groups of `every` may be left from an earlier match of the pattern.
        match = alone.fullmatch(text, *found.span(1))
        if match is None:
            return None
        if named:
            return match["answer"]
        return next((group for group in match.groups() if group is not None), None)

    return find


def _compiled(pattern: str) -> Any:
    import re2  # not there in every installation

    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0]
        reason = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise RefusalError(FIELD, f"RE2 cannot read it: {reason}", pattern) from error
    except UnicodeEncodeError as error:
        raise RefusalError(FIELD, "it holds half a surrogate pair") from error
