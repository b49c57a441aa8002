"""The text of an answer that is ended early. vLLM's output processor and tokenizer; no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor

from conf_server.engine.adoption import adopt
from conf_server.engine.client.output_processor import ConfidenceOutputProcessor
from conf_server.engine.marks import ask_for_rows
from conf_server.stats.early_stop import STOP_REASON, EarlyStop

WORDS = "One two three"


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_path)


def ended(tokenizer: Any, stop_reason: Any, **fields: Any) -> Any:
    """The answer WORDS, whose last token ends it."""
    processor = adopt(ConfidenceOutputProcessor, OutputProcessor(tokenizer, log_stats=False))
    params = SamplingParams(logprobs=0, **fields)
    ask_for_rows(params, 0, 0, at_end=True, early_stop=EarlyStop(1000.0, 1, 1))
    request = EngineCoreRequest(
        request_id="r",
        external_req_id="r",
        prompt_token_ids=[1, 2, 3],
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    processor.add_request(request, prompt=None)
    tokens = tokenizer.encode(WORDS, add_special_tokens=False)
    for token in tokens:
        is_last = token == tokens[-1]
        reason = FinishReason.STOP if is_last else None
        output = EngineCoreOutput("r", [token], finish_reason=reason)
        output.stop_reason = stop_reason if is_last else None
        made = processor.process_outputs([output]).request_outputs
    return made[0].outputs[0]


def test_the_last_token_of_an_early_end_has_its_text(tokenizer: Any) -> None:
    output = ended(tokenizer, STOP_REASON)
    assert (output.text, output.stop_reason) == (WORDS, STOP_REASON)


def test_a_token_that_stops_an_answer_has_none(tokenizer: Any) -> None:
    assert ended(tokenizer, None).text == "One two"


def test_a_stop_string_that_the_last_token_completes_comes_first(tokenizer: Any) -> None:
    output = ended(tokenizer, STOP_REASON, stop=["thr"])
    assert (output.text, output.stop_reason) == ("One two ", "thr")
