"""A client generated from the server's OpenAPI document asks our routes."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest

from tests.server import Server


@pytest.fixture(scope="module")
def generated(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package `typed_client`, importable while this module's tests run."""
    folder = tmp_path_factory.mktemp("generated")
    with server.http() as http:
        (folder / "openapi.json").write_bytes(http.get("/openapi.json").content)
    (folder / "config.yaml").write_text("post_hooks: []\n")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta=none"]
    files = ["--path=openapi.json", "--config=config.yaml", "--output-path=typed_client"]
    subprocess.run([*command, *files], cwd=folder, check=True, capture_output=True)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("typed_client")
    sys.path.remove(str(folder))
    # The next server's is another package of that name.
    for name in [name for name in sys.modules if name.partition(".")[0] == "typed_client"]:
        del sys.modules[name]


def test_score_and_uncertainty(server: Server, generated: Any) -> None:
    client = generated.AuthenticatedClient(
        base_url=server.url, token=server.api_key, timeout=120, raise_on_unexpected_status=True
    )
    models = importlib.import_module("typed_client.models")
    score = importlib.import_module("typed_client.api.default.create_score_v1_score_post")
    body = models.ScoreRequest(prompt="The capital of France is", completions=[" Paris", " Rome"])
    scored = score.sync(client=client, body=body)
    assert isinstance(scored, models.ScoreResponse)
    paris, rome = scored.data
    assert paris.logprob > rome.logprob
    assert paris.confidence_summary["mean_confidence"] > 0

    estimate = importlib.import_module(
        "typed_client.api.default.create_uncertainty_v1_uncertainty_post"
    )
    methods = models.UncertaintyOptionsMethodsItem
    body = models.UncertaintyRequest(
        prompt="The capital of France is",
        max_tokens=4,
        seed=1,
        uncertainty=models.UncertaintyOptions(methods=[methods.MEAN_TOKEN_ENTROPY]),
    )
    answer = estimate.sync(client=client, body=body)
    assert isinstance(answer, models.UncertaintyResponse)
    assert answer.estimates["mean_token_entropy"].value > 0
    assert answer.usage.completion_tokens == 4
