"""What math-verify takes for equal, as the process asks it."""

from __future__ import annotations

import pytest

from conf_server.thinking.latex_child import Equal, comparison


@pytest.fixture(scope="module")
def equal() -> Equal:
    return comparison()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("x+1", "1+x"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("x=5", "5"),
        (r"5 \text{ cm}", "5"),
        (r"\text{Paris}", "Paris"),
        ("1<x<2", "(1,2)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2.0\end{pmatrix}"),
    ],
)
def test_equal_in_both_directions(equal: Equal, one: str, other: str) -> None:
    assert equal(one, other) is True
    assert equal(other, one) is True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "2"),
        ("(1,2)", "(2,1)"),
        ("[0,1]", "(0,1)"),
        ("x", "y"),
        ("stop", "pots"),
        (r"\text{left}", r"\text{right}"),
        ("", "1"),
        ("$", "1"),
        (r"\frac{1", "1"),
        ('__import__("os")', "1"),
    ],
)
def test_different(equal: Equal, one: str, other: str) -> None:
    assert equal(one, other) is False
