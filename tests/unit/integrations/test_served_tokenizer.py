"""The tokenizer that is loaded here is the server's."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf_server.client import Client
from conf_server.integrations.served_tokenizer import served_tokenizer
from tests.unit.integrations.scoring_server import ScoringServer


def test_it_comes_from_the_folder_of_the_server_s_model(scoring_server: ScoringServer) -> None:
    with Client(scoring_server.url) as client:
        found = served_tokenizer(client, None)
    assert found.encode("Vienna") == scoring_server.tokenizer.encode("Vienna")


def test_it_has_to_be_named_where_that_is_no_folder_here(scoring_server: ScoringServer) -> None:
    scoring_server.root = "someone/some-model"
    with (
        Client(scoring_server.url) as client,
        pytest.raises(ValueError, match=r"tokenizer: name it, .* comes from someone/some-model"),
    ):
        served_tokenizer(client, None)


def test_another_model_s_is_refused(
    scoring_server: ScoringServer, sentence_model_path: Path
) -> None:
    with (
        Client(scoring_server.url) as client,
        pytest.raises(ValueError, match=r"tokenizer=.*MiniLM.*: it is not the server's"),
    ):
        served_tokenizer(client, str(sentence_model_path))
