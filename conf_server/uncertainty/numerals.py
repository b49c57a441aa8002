"""Numbers in text, however they are written down, in one form that can be compared.

The rules, the same for every text:

- Groups of three digits may be set apart by blanks of any kind, commas, points, apostrophes or
  underscores, and by commas also as in India (1,00,000).
- Where two kinds of separators occur, the last one is the decimal sign: 1.000.000,50.
- A single comma between one to three digits (no leading zero) and exactly three more sets groups
  apart: 3,140 is 3140. Any other single comma, and any single point, is the decimal sign:
  3,14 is 3.14 and 3.140 is 3.14.
- What fits none of these (1.2.3) is no number and stays as it is written.
- Signs of currency, percent signs and idle zeros do not count. "million" and the like do.
- A fraction of whole numbers is its value; a range, a time, a date or another expression of
  numbers is one thing, not its last number.

Libraries were tried on the cases of tests/unit/uncertainty/test_numerals.py, and none was right on
them. price-parser 0.5.1 drops every minus sign and reads 1’234.50 and 1e5 as 1, 3/4 as 3.
quantulum3 0.10.0 reads 3,14 as 3 and 14, and 10-20 as 15. Babel 2.18.0 has to be told the locale,
and in English refuses 3,14 and 1,00,000. math-verify 0.9.0 (and latex2sympy2) reads 1,00,000 as
1.00, narrow blanks as multiplication, no "−5" nor "-$5", and brings SymPy. number-parser 0.3.2
reads words.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

_CURRENCY: Final = r"(?:[A-Z]{0,3}[$€£¥₹] ?)?"
_DIGITS: Final = r"(?:(?:\d{1,3}(?: \d{3})+(?!\d)|\d+)(?:[.,'_]\d+)*|\.\d+)"
_SIGNED: Final = rf"(?:(?<![)\]}}%])[-+])?{_CURRENCY}[-+]?{_DIGITS}"
_EXPONENT: Final = r"(?:[eE][-+]?\d{1,4}| ?[×x*·] ?10\^\(?[-+]?\d{1,4}\)?)"

_MIXED: Final = rf"-?{_CURRENCY}\d{{1,9}} \d{{1,9}}/\d{{1,9}}(?!/)"

_JOINT: Final = r"(?: ?[-+*/×÷^:] ?| to )"
_EXPRESSION: Final = rf"-?{_CURRENCY}{_DIGITS}%?(?:{_JOINT}{_CURRENCY}{_DIGITS}%?)+"

_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_MONTH: Final = rf"(?:{'|'.join(f'{month[:3]}(?:{month[3:]})?' for month in _MONTHS)})\b\.?"
_DAY: Final = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE: Final = (
    rf"(?:{_MONTH} (?:{_DAY},? )?\d{{4}}|{_MONTH} {_DAY}"
    rf"|{_DAY}(?: of)? {_MONTH}(?:,? \d{{4}})?)"
)

_SCALES: Final = {
    **{"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12},
    **{"lakh": 5, "crore": 7},
}
_TAIL: Final = (
    rf"(?P<scale>(?: (?i:{'|'.join(_SCALES)})s?\b)*)(?: ?(?:%|percent\b|per cent\b))?"
    r"(?P<half> ?(?i:[ap]\.?m)\b)?"
)
# What must not stand before: a name (GPT-4), or a number of which this would be a part.
_START: Final = r"(?<![\w.±])(?<!\d[-+*/×÷^:,'_])(?<![A-Za-z]-)"
_END: Final = rf"(?!\w|-[A-Za-z]|{_JOINT}[-+(]?\d|[.,'_]\d)"

_QUANTITY: Final = re.compile(
    rf"{_START}(?:(?P<date>{_DATE})|(?P<mixed>{_MIXED})|(?P<power>{_SIGNED}{_EXPONENT})"
    rf"|(?P<expression>{_EXPRESSION})|(?P<number>{_SIGNED})){_TAIL}{_END}"
)
_LONGEST: Final = 60
"""Digits before or behind the point beyond which a number is written with an exponent."""

_SAME: Final = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
        **dict.fromkeys(
            "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " "
        ),
        **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", None),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63", "-"),
        **dict.fromkeys("\u2018\u2019\u02bc", "'"),
        **{"\u066b": ".", "\u066c": ",", "\u2044": "/", "≈": "="},
    }
)
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")


def same_characters(text: str) -> str:
    """The text with one character for each digit, minus sign, apostrophe and kind of blank."""
    text = text.translate(_SAME)
    if text.isascii():
        return text
    text = re.sub(r"(?![0-9])\d", lambda digit: str(unicodedata.decimal(digit[0])), text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda power: "^" + power[0].translate(_SUPERSCRIPTS), text)
    return re.sub(r"(\d?)([¼½¾⅐-⅞])", _vulgar, text)


def _vulgar(match: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction


def quantities(text: str) -> Iterator[tuple[str, int, int]]:
    """What numbers a text has: each in its one form, where it begins and where it ends.

    Args:
        text: as `same_characters` returns it.
    """
    for match in _QUANTITY.finditer(text):
        yield _read(match), match.start(), match.end()


def quantity_at_start(text: str) -> tuple[str, int] | None:
    """The quantity that a text begins with, and where it ends."""
    match = _QUANTITY.match(text)
    return (_read(match), match.end()) if match else None


def as_quantity(text: str) -> str | None:
    """The form of a text that is a quantity and nothing else."""
    match = _QUANTITY.fullmatch(text)
    return _read(match) if match else None


def _read(match: re.Match[str]) -> str:
    scale, half = match["scale"], match["half"]
    if match["number"] or match["power"]:
        return _number(match["number"] or match["power"], scale) + _half_of_day(half)
    if match["date"]:
        return _date(match["date"])
    if match["mixed"]:
        return _mixed(match["mixed"])
    return _expression(match["expression"]) + scale.lower() + _half_of_day(half)


def _half_of_day(half: str | None) -> str:
    return f" {half.strip().lower().replace('.', '')}" if half else ""


def _date(text: str) -> str:
    """Year, month and day as far as they are there, as in 2024-5-31."""
    month = next(n for n, name in enumerate(_MONTHS, 1) if name[:3] in text)
    numbers = re.findall(r"\d+", text)
    year = [number for number in numbers if len(number) == 4]
    day = [str(int(number)) for number in numbers if len(number) < 4]
    return "-".join([*year, str(month), *day])


def _mixed(text: str) -> str:
    """A whole number and a fraction: 1 1/2 is 1.5."""
    whole, numerator, denominator = map(int, re.findall(r"\d+", text))
    if not numerator < denominator:
        return text
    value = _fraction(whole * denominator + numerator, denominator)
    return f"-{value}" if text.startswith("-") else value


def _expression(text: str) -> str:
    """A fraction's or a power's value, else the numbers as they are written, blanks aside."""
    sign = "-" if text.startswith("-") else ""
    text = re.sub(r"[A-Z$€£¥₹%]", "", text.removeprefix("-").replace(" to ", "-"))
    numbers, joints = re.split(r"[-+*/×÷^:]", text), re.findall(r"[-+*/×÷^:]", text)
    numbers = [number.strip() for number in numbers]
    if joints == ["/"] and all(re.fullmatch(r"\d{1,30}", number) for number in numbers):
        numerator, denominator = map(int, numbers)
        if denominator:
            return sign.removesuffix("-" * (numerator == 0)) + _fraction(numerator, denominator)
    if joints == ["^"] and numbers[0] == "10" and re.fullmatch(r"\d{1,4}", numbers[1]):
        return sign + _decimal("1", int(numbers[1]))
    if ":" not in joints:
        numbers = [_plain(number) or number for number in numbers]
    return sign + "".join(map("".join, zip(numbers, [*joints, ""], strict=True)))


def _fraction(numerator: int, denominator: int) -> str:
    """A decimal number where that is exact, else the fraction in lowest terms."""
    common = math.gcd(numerator, denominator)
    numerator, denominator = numerator // common, denominator // common
    places = max(_times(denominator, 2), _times(denominator, 5))
    if 10**places % denominator:
        return f"{numerator}/{denominator}"
    return _decimal(str(numerator * 10**places // denominator), -places)


def _times(number: int, prime: int) -> int:
    """How often a prime number divides a number."""
    count = 0
    while number % prime == 0:
        number //= prime
        count += 1
    return count


def _number(text: str, scale: str) -> str:
    """A number with its sign, exponent and words such as million worked in."""
    found = re.search(_DIGITS, text)
    assert found is not None
    plain = _plain(found[0])
    if plain is None:  # A list without blanks, a version: as it is written.
        return found[0].replace(",", ", ")
    whole, _, fraction = plain.partition(".")
    exponent = -len(fraction)
    exponent += sum(_SCALES[word.removesuffix("s")] for word in scale.lower().split())
    if found.end() < len(text):
        exponent += int(re.split(r"[eE^]", text[found.end() :])[-1].strip("()"))
    value = _decimal(whole + fraction, exponent)
    negative = "-" in text[: found.start()] and value != "0"
    return f"-{value}" if negative else value


def _plain(digits: str) -> str | None:
    """Digits with a point for the decimal sign and nothing else; None where that is not clear."""
    marks = re.sub(r"\d", "", digits)
    kinds = list(dict.fromkeys(marks))
    *groups, last = re.split(r"[.,'_ ]", digits)
    if not kinds:
        return _shortest(digits)
    if len(kinds) == 1 and len(marks) == 1 and not _groups_apart(digits, kinds[0]):
        return _shortest(f"{groups[0]}.{last}") if kinds[0] in ".," else None
    if len(kinds) == 1:
        return _shortest("".join([*groups, last])) if _is_grouped(digits, kinds[0]) else None
    head = digits[: -len(last) - 1]
    if len(kinds) == 2 and marks.count(kinds[1]) == 1 and kinds[1] in ".,":
        return _shortest(f"{''.join(groups)}.{last}") if _is_grouped(head, kinds[0]) else None
    return None


def _groups_apart(digits: str, mark: str) -> bool:
    """Whether the only separator sets groups apart; a point never does."""
    return mark != "." and bool(re.fullmatch(r"[1-9]\d{0,2}\D\d{3}", digits))


def _is_grouped(digits: str, mark: str) -> bool:
    western = rf"[1-9]\d{{0,2}}(?:{re.escape(mark)}\d{{3}})+"
    indian = r"[1-9]\d?(?:,\d{2})*,\d{3}"
    return bool(re.fullmatch(western, digits) or re.fullmatch(indian, digits))


def _shortest(number: str) -> str:
    """Without idle zeros."""
    whole, _, fraction = number.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _decimal(digits: str, exponent: int) -> str:
    """digits * 10^exponent without idle zeros; with an exponent where it is very long."""
    digits = digits.lstrip("0")
    trimmed = digits.rstrip("0")
    exponent += len(digits) - len(trimmed)
    if not trimmed:
        return "0"
    point = len(trimmed) + exponent
    if not -_LONGEST < point <= max(_LONGEST, len(digits)):
        return f"{trimmed}e{exponent}"
    if exponent >= 0:
        return trimmed + "0" * exponent
    if point > 0:
        return f"{trimmed[:point]}.{trimmed[point:]}"
    return f"0.{'0' * -point}{trimmed}"
