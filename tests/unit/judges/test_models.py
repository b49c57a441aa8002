"""Models that compare texts: tiny ones of random weights, read as transformers reads them."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerFast,
)

from conf_server.backends.base import Caller, Framing
from conf_server.concurrency import Cancelled, in_thread
from conf_server.judges.base import JudgeContext
from conf_server.judges.embedding import EmbeddingModel
from conf_server.judges.models import ModelJudge, load_models
from conf_server.judges.nli import NliModel, label_columns
from conf_server.settings import ConfidenceSettings, SettingsError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "paris", "lyon", "it", "is", "the", "capital", "of"]
PAIRS = [("paris", "it is paris"), ("it is lyon", "the capital of paris is it"), ("is", "is")]


def write_model(folder: Path, model_class: type, **config: object) -> Path:
    """A BERT with two layers and a word for a token."""
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    ).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    model = model_class.from_config(BertConfig(**size, **layers, **config))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def embedding_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("embedding"), AutoModel)


@pytest.fixture(scope="module")
def nli_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    return write_model(
        tmp_path_factory.mktemp("nli"),
        AutoModelForSequenceClassification,
        id2label=labels,
        label2id={label: number for number, label in labels.items()},
    )


def test_embeddings_are_means_over_a_texts_tokens(embedding_path: Path) -> None:
    verdicts, _ = EmbeddingModel(str(embedding_path)).judge(PAIRS)
    tokenizer = AutoTokenizer.from_pretrained(embedding_path)
    model = AutoModel.from_pretrained(embedding_path).eval()

    def embed(text: str) -> np.ndarray:
        with torch.inference_mode():  # one at a time: no padding
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return hidden.double().mean(dim=0).numpy()

    for (a, b), verdict in zip(PAIRS, verdicts, strict=True):
        first, second = embed(a), embed(b)
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert verdict == pytest.approx([max(cosine, 0), 0, 1 - max(cosine, 0)], abs=1e-5)


def test_a_real_model_gives_the_numbers_of_sentence_transformers(
    sentence_model_path: Path,
) -> None:
    """Recorded with sentence-transformers 6.2.0; the last two differ after what it reads."""
    pairs = [
        ("The capital of France is Paris.", "It is Paris."),
        ("The capital of France is Paris.", "The capital of France is Lyon."),
        ("Il pleut.", "Cats purr when they are content."),
        ("word " * 400 + "end", "word " * 400 + "Something else entirely"),
    ]
    model = EmbeddingModel(str(sentence_model_path))
    verdicts, whole = model.judge(pairs)
    np.testing.assert_allclose(verdicts[:, 0], [0.75857, 0.75283, 0.06641, 1], atol=2e-5)
    assert not whole
    assert model.judge(pairs[:3])[1]


def test_a_folder_says_how_its_model_pools(embedding_path: Path, tmp_path: Path) -> None:
    for file in embedding_path.iterdir():
        (tmp_path / file.name).symlink_to(file)
    steps = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(steps))
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling/config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    tokenizer = AutoTokenizer.from_pretrained(embedding_path)
    model = AutoModel.from_pretrained(embedding_path).eval()
    with torch.inference_mode():
        hidden = model(**tokenizer("it is paris", return_tensors="pt")).last_hidden_state
    first = torch.nn.functional.normalize(hidden[:, 0], dim=1).numpy()
    np.testing.assert_allclose(
        EmbeddingModel(str(tmp_path)).embed(["it is paris"])[0], first, atol=1e-5
    )
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ValueError, match="max_tokens"):
        EmbeddingModel(str(tmp_path))
    dense = [*steps, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(dense))
    with pytest.raises(ValueError, match="Dense"):
        EmbeddingModel(str(tmp_path))


@pytest.mark.parametrize("kind", ["embedding", "nli"])
async def test_texts_longer_than_the_model_are_cut_and_it_is_said(
    kind: str, embedding_path: Path, nli_path: Path, tmp_path: Path
) -> None:
    path = {"embedding": embedding_path, "nli": nli_path}[kind]
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 10**30}))
    load = {"embedding": EmbeddingModel, "nli": NliModel}[kind]
    judge = ModelJudge(load(str(tmp_path)))
    context = JudgeContext("", Framing(is_chat=True), Caller("request"))
    await judge.judge(PAIRS, context)
    room = {"embedding": 30 - 2, "nli": 30 - 3 - 1}[kind]  # beside [CLS], [SEP] and "is"
    await judge.judge([("paris " * room, "is")], context)
    assert not context.notes.cut
    long = "paris " * 40
    verdicts = await judge.judge([(long + "is", long + "lyon")], context)
    assert np.isfinite(verdicts).all()
    assert context.notes.cut


@pytest.mark.parametrize("kind", ["embedding", "nli"])
async def test_a_model_stops_working_for_nobody(
    kind: str, embedding_path: Path, nli_path: Path
) -> None:
    path, load = {"embedding": (embedding_path, EmbeddingModel), "nli": (nli_path, NliModel)}[kind]
    model = load(str(path))
    pairs = [("paris", "it " * (1 + n % 20) + str(n)) for n in range(4096)]
    begun = threading.Event()

    def judge(cancelled: Cancelled) -> object:
        begun.set()
        return model.judge(pairs, cancelled)

    with ThreadPoolExecutor(1) as pool:
        work = asyncio.create_task(in_thread(pool, judge))
        await asyncio.to_thread(begun.wait)
        future = asyncio.get_running_loop().run_in_executor(pool, str)
        work.cancel()
        await asyncio.wait_for(future, 10)
        with pytest.raises(asyncio.CancelledError):
            await work
    with pytest.raises(CancelledError):
        model.judge(pairs, lambda: True)


def test_nli_gives_each_pair_its_own_probabilities_by_name(nli_path: Path) -> None:
    verdicts, _ = NliModel(str(nli_path)).judge(PAIRS)
    tokenizer = AutoTokenizer.from_pretrained(nli_path)
    model = AutoModelForSequenceClassification.from_pretrained(nli_path).eval()
    for (premise, hypothesis), verdict in zip(PAIRS, verdicts, strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(premise, hypothesis, return_tensors="pt")).logits[0]
        contradict, neutral, entail = logits.double().softmax(-1).tolist()
        assert verdict == pytest.approx([entail, neutral, contradict], abs=1e-5)


def test_a_batch_more_than_one_changes_nothing(nli_path: Path) -> None:
    model = NliModel(str(nli_path))
    (many, _), (few, _) = model.judge(PAIRS * 15), model.judge(PAIRS)
    np.testing.assert_allclose(many[:3], few, atol=1e-6)


@pytest.mark.parametrize(
    "labels", [{0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, {0: "entailment", 1: "not_entailment"}]
)
def test_other_classifiers_are_refused(labels: dict[int, str]) -> None:
    with pytest.raises(ValueError, match="entailment, neutral and contradiction"):
        label_columns(labels)


def test_the_flags_load_them(embedding_path: Path, nli_path: Path) -> None:
    settings = ConfidenceSettings(embedding_model=str(embedding_path), nli_model=str(nli_path))
    models = load_models(settings)
    assert models["embedding"].symmetric
    assert not models["nli"].symmetric
    assert load_models(ConfidenceSettings()) == {}


def test_a_model_that_cannot_be_loaded_is_named_with_its_flag(
    tmp_path: Path, embedding_path: Path
) -> None:
    with pytest.raises(SettingsError, match=f"--embedding-model {tmp_path}"):
        load_models(ConfidenceSettings(embedding_model=str(tmp_path)))
    with pytest.raises(SettingsError, match=r"--nli-model .*entailment, neutral"):
        load_models(ConfidenceSettings(nli_model=str(embedding_path)))
