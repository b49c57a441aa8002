"""The list of methods: what each needs is what it reads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server.uncertainty.evidence import Evidence, Generation, MissingEvidenceError
from conf_server.uncertainty.needs import Need
from conf_server.uncertainty.registry import (
    GROUPS,
    METHODS,
    Method,
    MethodError,
    register,
    resolve,
)
from tests.unit.uncertainty.vectors.cases import cases

WHOLE = next(case.evidence for case in cases() if case.name == "paraphrases, judge")


def without(need: Need) -> Evidence:
    """Everything but one thing."""
    assert WHOLE.answer is not None
    nothing = np.empty(0)
    if need == Need.ANSWER_LOGPROBS:
        return replace(WHOLE, answer=Generation(WHOLE.answer.text, nothing))
    if need == Need.ANSWER_STATISTICS:
        return replace(WHOLE, answer=replace(WHOLE.answer, statistics=None), vocab_size=None)
    if need == Need.SAMPLES:
        return replace(WHOLE, samples=())
    if need == Need.SAMPLE_LOGPROBS:
        texts = tuple(Generation(sample.text, nothing) for sample in WHOLE.samples)
        return replace(WHOLE, samples=texts)
    return replace(WHOLE, **{need.field: None})


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_method_needs_what_it_says_and_nothing_else(method: Method) -> None:
    assert method.needs
    # Without the samples their log-probabilities are not there either.
    implied = {Need.SAMPLES} if Need.SAMPLE_LOGPROBS in method.needs else set()
    if Need.ANSWER_STATISTICS in method.needs:
        implied.add(Need.ANSWER_LOGPROBS)  # one row a token has both
    for need in Need:
        if need in method.needs | implied:
            with pytest.raises(MissingEvidenceError):
                method.estimate(without(need))
        else:
            assert method.estimate(without(need)) == method.estimate(WHOLE)


def test_every_method_says_what_it_is() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert method.source
        assert method.description
        assert method.higher_is == "more uncertain"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_description_is_read_alone(method: Method) -> None:
    """The catalogue serves it without those of its neighbours."""
    assert not re.match(r"(the same|both|likewise|this|that|these|those)\b", method.description)
    assert not re.search(r"\b(that|this|these|those) \w+$", method.description)
    assert [other.description for other in METHODS.values()].count(method.description) == 1


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if method.confidence is not None]
)
def test_a_confidence_is_a_probability_that_falls_with_uncertainty(name: str) -> None:
    confidence = METHODS[name].confidence
    assert confidence is not None
    found = [METHODS[name].estimate(case.evidence).value for case in cases()]
    values = np.sort([value for value in found if value is not None])
    assert values.size
    probabilities = confidence(values)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert (np.diff(probabilities) <= 0).all()


def test_the_fast_ones_need_the_answer_alone() -> None:
    own = {Need.ANSWER_LOGPROBS, Need.ANSWER_STATISTICS}
    fast = set(GROUPS["fast"])
    assert fast == {name for name, method in METHODS.items() if method.needs <= own}
    assert {"perplexity", "mean_token_entropy", "fisher_rao"} <= fast


def test_groups_are_expanded_and_nothing_comes_twice() -> None:
    assert [method.name for method in resolve(["all"])] == list(METHODS)
    names = [method.name for method in resolve(["p_true", "perplexity", "fast", "p_true"])]
    fast = GROUPS["fast"]
    assert names == ["p_true", "perplexity", *(name for name in fast if name != "perplexity")]
    assert resolve([]) == ()


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(KeyError, match="magic"):
        resolve(["fast", "magic", "p_true"])


def test_families_stand_for_their_members() -> None:
    assert [method.name for method in resolve(["cocoa"])] == ["cocoa_msp", "cocoa_ppl", "cocoa_mte"]
    assert len(resolve(["lexical_similarity", "lexical_similarity_bleu"])) == 4


OUTSIDE = """
from conf_server.uncertainty.estimate import estimate
from conf_server.uncertainty.needs import Need
from conf_server.uncertainty.registry import Method
METHOD = Method("length", frozenset({Need.ANSWER_LOGPROBS}),
    lambda evidence: estimate(len(evidence.answer.text)), "nobody", "characters of the answer")
"""
"""All that another package has to write."""

USES_IT = """
from conf_server.uncertainty.evidence import Evidence, Generation
from conf_server.uncertainty.registry import GROUPS, METHODS, load_entry_points, resolve
import numpy as np
load_entry_points()
load_entry_points()
assert [GROUPS[group].count("length") for group in ("all", "fast")] == [1, 1]
(method,) = resolve(["length"])
print(method.estimate(Evidence(answer=Generation("Paris", np.zeros(1)))).value, method.higher_is)
"""


def run_beside_package(
    folder: Path, source: str, entry_point: str, code: str
) -> subprocess.CompletedProcess[str]:
    """Run Python where a distribution is installed that names a method in its entry points."""
    (folder / "their_package.py").write_text(source)
    metadata = folder / "their_package-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[conf_server.methods]\nit = {entry_point}\n")
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_another_package_adds_a_method_in_its_entry_points(tmp_path: Path) -> None:
    ran = run_beside_package(tmp_path, OUTSIDE, "their_package:METHOD", USES_IT)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "5.0 more uncertain\n", "")


@pytest.mark.parametrize(
    ("source", "entry_point", "message"),
    [
        ("METHOD = 1", "their_package:METHOD", "of type int"),
        ("1 / 0", "their_package:METHOD", "ZeroDivisionError"),
        (OUTSIDE.replace("length", "p_true"), "their_package:METHOD", "the name is taken"),
        ("", "their_package:METHOD", "AttributeError"),
    ],
)
def test_a_report_refuses_an_entry_point_in_one_line(
    tmp_path: Path, source: str, entry_point: str, message: str
) -> None:
    code = "from conf_server.report.command import main; raise SystemExit(main(['missing']))"
    ran = run_beside_package(tmp_path, source, entry_point, code)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sar"}, "taken"),
        ({"name": "fast"}, "taken"),
        ({"name": "my method"}, "letters"),
        ({"needs": frozenset({"samples of blood"})}, "needs"),
        ({"description": "two\nlines"}, "one line"),
        ({"family": "sar"}, "family"),
    ],
)
def test_what_cannot_be_registered(changes: dict[str, Any], message: str) -> None:
    before = dict(METHODS), dict(GROUPS)
    method = Method("new", frozenset({Need.SAMPLES}), METHODS["sar"].estimate, "nobody", "one line")
    with pytest.raises(MethodError, match=message):
        register(replace(method, **changes))
    assert (dict(METHODS), dict(GROUPS)) == before


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_documentation_lists_every_method_as_the_catalogue_describes_it(method: Method) -> None:
    table = (Path(__file__).parents[3] / "docs/uncertainty.md").read_text(encoding="utf-8")
    assert f"| `{method.name}` | {method.description} | " in table
    assert f" | {method.source} |\n" in table
