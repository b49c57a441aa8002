"""What a comparison of words counts."""

from conf_server.judges.words import RougeLJudge, WordsJudge


def test_what_a_comparison_counts_is_what_it_costs() -> None:
    linear, quadratic = WordsJudge(), RougeLJudge()
    assert linear.characters(2**16, 2**16) == 2**17
    assert quadratic.characters(2**16, 2**16) == 2**20
    assert quadratic.characters(2**13, 2**13) == linear.characters(2**13, 2**13)
    assert quadratic.characters(10, 2**20) == 10 + 2**20
