"""What the reference's logits say where the engine has given rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conf_server.check.reference_rows import reference_rows
from tests.unit.check.rows import (
    TOP_K,
)


@settings(max_examples=20)
@given(arrays(np.float32, (130, 9), elements=st.floats(-20, 20, width=32)))
def test_rows_do_not_depend_on_how_many_are_taken_at_once(logits: Any) -> None:
    ids = np.argsort(-logits, axis=1)[:, :TOP_K]
    together = reference_rows(logits, ids[:, 1], ids, statistics=True)
    assert together.statistics is not None
    for at in (0, 63, 64, 129):
        alone = reference_rows(logits[at : at + 1], ids[at : at + 1, 1], ids[at : at + 1], True)
        assert alone.statistics is not None
        np.testing.assert_array_equal(alone.statistics.values[0], together.statistics.values[at])
        np.testing.assert_array_equal(alone.candidate_logprobs[0], together.candidate_logprobs[at])
        assert (alone.logprobs[0], alone.best_ids[0], alone.best_logprobs[0]) == (
            together.logprobs[at],
            together.best_ids[at],
            together.best_logprobs[at],
        )
