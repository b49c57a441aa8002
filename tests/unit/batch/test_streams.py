"""Lines from chunks, whatever the border."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conf_server.batch.streams import LineSplitter


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b"d\ne"]), max_size=20))
def test_lines_do_not_depend_on_the_chunks(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    assert [*lines, splitter.rest] == b"".join(chunks).split(b"\n")
