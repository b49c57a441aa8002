"""The plots of a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from conf_server.report.figures import MethodFigures, method_figures
from conf_server.report.plots import BARS, distribution
from tests.unit.report.files import good_lines, judged, uncertainty, write
from tests.unit.report.pages import report


def test_plots_as_png(tmp_path: Path) -> None:
    report(tmp_path, *good_lines(), flags=("--png", str(tmp_path / "plots")))
    found = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert len(found) == 3 * 3 + 3
    assert {"correlations.png", "forest.png", "risk-coverage.png"} <= set(found)
    assert "perplexity_risk-coverage.png" in found
    for path in (tmp_path / "plots").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "values", [[0.3, 0.30000000000000004], [0.0, 1e-17], [1e17, 1e17 + 16], [-5.0, -5.0]]
)
def test_one_level_is_drawn_and_not_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: list[float]
) -> None:
    lines = [uncertainty(estimates={"a": value}, correct=value > min(values)) for value in values]
    page = report(tmp_path, *lines, uncertainty(estimates={"a": values[0]}, correct=True))
    assert page.tags.count("svg") == 3
    assert len(page.rows) == 2
    assert "One value for all answers, which ranks nothing: a" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[-1e308, 1e308], [1.7e308, 1.7e308], [0.0, 1.7e308]])
def test_values_that_no_axis_can_hold_are_ranked_and_not_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: list[float]
) -> None:
    lines = [uncertainty(estimates={"perplexity": one}, correct=one < 1) for one in values]
    page = report(tmp_path, *lines, uncertainty(estimates={"perplexity": 0.5}, correct=True))
    assert "<figcaption>risk-coverage:" in (tmp_path / "r.html").read_text()
    assert "<figcaption>distribution:" not in (tmp_path / "r.html").read_text()
    assert "perplexity (1.7e+308)" in page.text or page.rows[1][1].startswith("1.000")
    assert "inf" not in page.text.split()
    out = capsys.readouterr().out
    assert "No distribution: values too large to be drawn (perplexity)." in out


def test_whole_numbers_have_a_bar_each(tmp_path: Path) -> None:
    """Seven values have seven places with room between; others have thirty bars in a row."""
    lines = [uncertainty(estimates={"a": n % 7, "b": n / 7}, correct=n > 30) for n in range(60)]
    found = {one.name: one for one in method_figures(judged(write(tmp_path, *lines), "exact"), 0)}
    assert [len(bars(found[name])) for name in ("a", "b")] == [7, BARS]
    whole, broken = bars(found["a"]), bars(found["b"])
    assert [round(left + width / 2, 6) for left, width in whole] == list(range(7))
    assert whole[0][0] + whole[0][1] < whole[1][0]
    assert broken[0][0] + broken[0][1] == pytest.approx(broken[1][0])


def bars(method: MethodFigures) -> list[tuple[float, float]]:
    """Left end and width of the bars of right answers."""
    axes = Figure().add_subplot()
    distribution(method).draw(axes)
    return [(bar.get_x(), bar.get_width()) for bar in axes.containers[0]]
