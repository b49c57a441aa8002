"""Folders of trained heads: what is read of them, and what is refused in what words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from conf_server.heads.features import ModelShape
from conf_server.heads.loading import check_head, load_head
from conf_server.heads.luh_config import HeadError
from conf_server.heads.uncertainty_head import UncertaintyHead
from tests.uheads import CONFIGS, RECORDED, write_head

SHAPE = ModelShape(num_layers=30, num_heads=9, hidden_size=576)
CANDIDATES = np.log(np.full((3, 4), 0.2, np.float32))

Change = Callable[[dict[str, Any]], object]


def load(folder: Path, shape: ModelShape = SHAPE) -> UncertaintyHead:
    return load_head(folder, shape, 10**6)


def claim_head(folder: Path, change: Change = lambda config: None) -> Path:
    """A head that reads probabilities alone, with its configuration changed."""
    config: dict[str, Any] = {
        **{"head_type": "linear_claim", "uncertainty_head": None},
        "feature_extractor": [{"name": "luh.feature_extractors.token_probabilities", "top_n": 4}],
    }
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    weights = {"classifier.weight": torch.ones(1, 4), "classifier.bias": torch.tensor([0.5])}
    torch.save(weights, folder / "weights.pth")
    return folder


async def test_a_linear_head_of_a_claim_judges_the_tokens_mean(tmp_path: Path) -> None:
    head = load(claim_head(tmp_path))
    assert (head.name, head.judges_tokens, head.reads_layers) == ("linear_claim", False, False)
    verdict = await head.judge(2, CANDIDATES, None)
    assert verdict.logits == pytest.approx([1.3])
    assert not verdict.of_tokens


@pytest.mark.parametrize("as_checkpoint", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_is_loaded_as_luh_has_it(name: str, as_checkpoint: bool, tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text())["heads"][name]
    head = load(write_head(tmp_path, name, as_checkpoint=as_checkpoint))
    assert head.name == CONFIGS[name]["head_type"]
    assert head.judges_tokens == recorded["of_tokens"]
    assert head.reads_layers


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(head_type="claim_light"), "head_type 'claim_light' is not known"),
        (lambda c: c.update(head_type=3), "head_type 3 is not known"),
        (lambda c: c.update(uncertainty_head={"head_dim": 4}), "uncertainty_head.head_dim is not"),
        (lambda c: c.update(uncertainty_head=[1]), "uncertainty_head must be a mapping"),
        (lambda c: c.pop("feature_extractor"), "feature_extractor must be a list"),
        (lambda c: c["feature_extractor"][0].pop("name"), "feature_extractor.0.name must say"),
        (
            lambda c: c["feature_extractor"][0].update(name="luh.feature_extractors.final_output"),
            "feature_extractor.0.name 'luh.feature_extractors.final_output' is not known",
        ),
        (lambda c: c["feature_extractor"][0].pop("top_n"), "feature_extractor.0.top_n is missing"),
        (
            lambda c: c["feature_extractor"][0].update(bottom_n=1),
            "feature_extractor.0.bottom_n is not known for token_probabilities",
        ),
    ],
)
def test_a_configuration_that_is_not_known_is_refused(
    change: Change, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(HeadError, match=f"^{reason}"):
        load(claim_head(tmp_path, change))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"head_dim": 0}, "uncertainty_head.head_dim must be a whole number of at least 1"),
        ({"n_heads": 3}, "uncertainty_head: 3 attention heads do not go into a width of 16"),
        ({"mask_future_tokens": 1}, "uncertainty_head.mask_future_tokens must be true or false"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = write_head(tmp_path, "claim")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["uncertainty_head"] |= options
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(HeadError, match=f"^{reason}"):
        load(folder)


@pytest.mark.parametrize("text", ["", "just words", "a: [", "\tx"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (claim_head(tmp_path) / "config.yaml").write_text(text)
    with pytest.raises(HeadError, match=r"^config\.yaml ") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"^config\.yaml cannot be read"):
        load(tmp_path / "nowhere")
    (claim_head(tmp_path) / "weights.pth").unlink()
    with pytest.raises(HeadError, match=r"neither weights\.safetensors nor weights\.pth"):
        load(tmp_path)


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def test_no_code_is_unpickled(tmp_path: Path) -> None:
    folder = claim_head(tmp_path)
    torch.save({"classifier.weight": Code(tmp_path / "made")}, folder / "weights.pth")
    with pytest.raises(HeadError, match=r"^weights\.pth cannot be read"):
        load(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_broken_file_of_weights_is_refused(name: str, tmp_path: Path) -> None:
    (claim_head(tmp_path) / name).write_bytes(b"not weights")
    with pytest.raises(HeadError, match=f"^{name} cannot be read: ") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([1], r"weights\.pth is no dictionary of tensors"),
        ({"classifier.weight": torch.ones(1, 4)}, r"the weights lack classifier\.bias"),
        ({"classifier.bias": torch.ones(1), "more": torch.ones(1)}, "the weights lack"),
        (
            {"classifier.weight": torch.full((1, 4), torch.nan), "classifier.bias": torch.ones(1)},
            r"classifier\.weight holds numbers that are not finite",
        ),
        (
            {
                **{"classifier.weight": torch.ones(1, 4), "classifier.bias": torch.ones(1)},
                "more": torch.ones(1),
            },
            "the weights hold more, of which",
        ),
        (
            {"classifier.weight": torch.ones(1, 6), "classifier.bias": torch.ones(1)},
            r"classifier\.weight is of shape \(1, 6\), not \(1, 4\): .* features are 4 numbers "
            r"\(4 of token_probabilities\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: Any, reason: str, tmp_path: Path) -> None:
    torch.save(weights, claim_head(tmp_path) / "weights.pth")
    with pytest.raises(HeadError, match=f"^{reason}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "shape",
    [replace(SHAPE, num_layers=24), replace(SHAPE, num_heads=8), replace(SHAPE, hidden_size=8)],
)
def test_a_head_of_another_model_is_refused(shape: ModelShape, tmp_path: Path) -> None:
    by_attention, by_states = "claim", "saplma"
    name = by_states if shape.hidden_size == 8 else by_attention
    folder = write_head(tmp_path, name)
    for load_or_check in (check_head, load):
        with pytest.raises(HeadError, match=r"with this model its features are \d+ numbers"):
            load_or_check(folder, shape)


async def test_the_answers_features_become_logits_whatever_the_file(tmp_path: Path) -> None:
    """Heads of probabilities alone, with the same weights in three files."""
    weights = {
        "classifier.weight": torch.tensor([[1.0, -2.0, 0.5, 0.25]]),
        "classifier.bias": torch.tensor([0.125]),
    }
    halved = {"classifier.weight": torch.half, "classifier.bias": torch.bfloat16}
    folder = claim_head(tmp_path, lambda config: config.update(head_type="linear"))
    found = []
    for written in (weights, {name: weights[name].to(dtype) for name, dtype in halved.items()}):
        torch.save(written, folder / "weights.pth")
        found.append((await load(folder).judge(2, CANDIDATES, None)).logits)
    save_file(weights, folder / "weights.safetensors")
    (folder / "weights.pth").unlink()
    found.append((await load(folder).judge(2, CANDIDATES, None)).logits)
    assert found == [pytest.approx([0.2 * -0.25 + 0.125] * 3)] * 3
