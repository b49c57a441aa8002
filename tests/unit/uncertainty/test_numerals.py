"""Numbers in text: the same one however it is written, and never a part of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.uncertainty.numerals import as_quantity, quantities, same_characters


def found(text: str) -> list[str]:
    return [form for form, _, _ in quantities(same_characters(text))]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("42", "42"),
        ("007", "7"),
        ("-0.00", "0"),
        (".50", "0.5"),
        ("1,234.5", "1234.5"),
        ("1.234,5", "1234.5"),
        ("1.000.000,50", "1000000.5"),
        ("1 000,50", "1000.5"),
        ("3,140", "3140"),
        ("3.140", "3.14"),
        ("3,14", "3.14"),
        ("3,1415", "3.1415"),
        ("0,500", "0.5"),
        ("1234,567", "1234.567"),
        ("12,34,567", "1234567"),
        ("1'234'567.89", "1234567.89"),
        ("1_000_000", "1000000"),
        ("1\u00a0000", "1000"),
        ("1\u2009000", "1000"),
        ("1\u202f000", "1000"),
        ("\u0967\u0968\u0969", "123"),
        ("\u0661\u0662\u066b\u0665", "12.5"),
        ("\uff11\uff0c\uff10\uff10\uff10", "1000"),
        ("1.5e-3", "0.0015"),
        ("1.5 × 10⁻³", "0.0015"),
        ("2 x 10^5", "200000"),
        ("10^5", "100000"),
        ("1e400", "1e400"),
        ("5 per cent", "5"),
        ("2 hundred thousand", "200000"),
        ("3 Lakhs", "300000"),
        ("2/4", "0.5"),
        ("1/3", "1/3"),
        ("-2/6", "-1/3"),
        ("3/0", "3/0"),
        ("10-20", "10-20"),
        ("1,000-2,000", "1000-2000"),
        ("10 to 20 million", "10-20 million"),
        ("10:05 p.m.", "10:05 pm"),
        ("2024-05-01", "2024-5-1"),
        ("May 1, 2024", "2024-5-1"),
        ("1.2.3", "1.2.3"),
        ("5'11", "5'11"),
        ("1,2,3", "1, 2, 3"),
    ],
)
def test_one_form_of_each_number(text: str, form: str) -> None:
    assert found(text) == [form]


@pytest.mark.parametrize(
    "text", ["", "GPT-4", "v1.2", "1990s", "5th", "5-fold", "x5", "±5", "7 + 3x", "1e99999", "no"]
)
def test_part_of_a_name_is_no_number(text: str) -> None:
    assert found(text) == []


def test_all_numbers_of_a_text() -> None:
    text = "In 2024, 3,5 million people paid $-12.50 or 7/8 of it; call 10:30."
    assert found(text) == ["2024", "3500000", "-12.5", "0.875", "10:30"]


@given(st.integers(-(10**30), 10**30), st.integers(0, 8), st.sampled_from(["", ",", " ", "'", "_"]))
def test_a_decimal_number_is_read_as_written(number: int, places: int, group: str) -> None:
    whole, fraction = f"{abs(number):,}".replace(",", group or ""), "5" * places
    text = f"{'-' if number < 0 else ''}{whole}.{fraction}1"
    assert as_quantity(text) == f"{'-' if number < 0 else ''}{abs(number)}.{fraction}1"


@given(st.text("0123456789.,' -+/^e$%:×x()to millon\n", max_size=60))
def test_quantities_stand_where_they_say_and_do_not_overlap(text: str) -> None:
    end = 0
    for form, start, stop in quantities(text):
        assert end <= start < stop
        assert form
        assert as_quantity(text[start:stop]) is not None
        end = stop
