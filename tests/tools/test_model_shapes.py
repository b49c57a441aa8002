"""benchmarks/model_shapes.py: the folders without weights, as transformers and vLLM see them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from vllm.config import ModelConfig

from benchmarks.model_shapes import SHAPES, VOCABULARY, ShapeError, pad_vocabulary, write_shape

# Parameters of the public Llama-3.2-1B and Llama-3.1-8B.
PARAMETERS = {"1B": 1_235_814_400, "8B": 8_030_261_248}
TEXT = "The capital of France is Paris.\n\n¿Qué hora es? w1f600 def f(x): return x ** 2"


@pytest.fixture(scope="module")
def folders(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name in SHAPES:
        write_shape(name, model_path, root / name)
    return {name: root / name for name in SHAPES}


@pytest.mark.parametrize("name", SHAPES)
def test_the_size_is_the_public_models(name: str, folders: dict[str, Path]) -> None:
    config = AutoConfig.from_pretrained(folders[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(math.prod(p.shape) for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_vllm_takes_it(name: str, folders: dict[str, Path]) -> None:
    config = ModelConfig(str(folders[name]), max_model_len=4096)
    assert config.get_vocab_size() == VOCABULARY
    assert config.dtype == torch.bfloat16
    assert config.architecture == "LlamaForCausalLM"


def test_every_id_has_a_text(folders: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["1B"])
    assert len(tokenizer) == VOCABULARY
    added = tokenizer.batch_decode([[token] for token in range(49_152, VOCABULARY)])
    assert all(text.startswith(" w") for text in added)
    assert len(set(added)) == len(added)


def test_texts_are_tokenized_as_before(folders: dict[str, Path], model_path: Path) -> None:
    own, padded = (AutoTokenizer.from_pretrained(path) for path in (model_path, folders["8B"]))
    added = " wc000 w1f4ff"  # the texts of added ids, spelt out
    assert padded.encode(TEXT + added) == own.encode(TEXT + added)
    messages = [{"role": "user", "content": TEXT}]
    rendered = padded.apply_chat_template(messages, tokenize=False)
    assert rendered == own.apply_chat_template(messages, tokenize=False)


def test_without_the_embedded_model_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="run `make model`"):
        write_shape("1B", tmp_path / "nothing", tmp_path / "1B")


def test_a_vocabulary_with_gaps_or_our_texts_is_refused() -> None:
    with pytest.raises(ShapeError, match="gaps"):
        pad_vocabulary({"a": 0, "b": 2}, 4)
    with pytest.raises(ShapeError, match="Ġw2"):
        pad_vocabulary({"a": 0, "Ġw2": 1}, 4)
