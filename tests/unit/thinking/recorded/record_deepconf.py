"""Records what DeepConf's own code makes of random trace sets, in deepconf.json.

Wants a checkout of facebookresearch/deepconf at the commit below, numpy, and nothing of
conf_server:

    python tests/unit/thinking/recorded/record_deepconf.py CHECKOUT

Its online mode is run as it is, warm-up, threshold, final traces and all eight votes, with an
engine that has the traces ready in place of vLLM's. A trace is written as runs of equal token
confidences, so that traces longer than the votes' 2048 tokens stay small here.

DeepConf rounds a token's confidence to 3 decimals, and a window's mean in `min_conf` too. Half of
the sets are whole numbers in windows of 8 tokens, where that rounds nothing off and ties abound;
the others have 3 decimals, and are drawn again where `min_conf`s are too close for rounding.

Where a trace has a token without a finite confidence, its code is run twice: on the traces as they
are ("raw"), and without these tokens, which is what early stopping and our numbers look at.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

COMMIT = "675529d172ef6d240aa1f21cb60940d427cc1ea6"
HERE = Path(__file__).parent
SETS = 200
WARMUPS = (2, 4, 8, 16)
PERCENTS = (10, 25, 50, 90)
ANSWERS = ["70", "7", "\\frac{1}{2}", "0.5", "", None]
GAP = 0.002
"""Nats between two min_confs that rounding cannot swap."""

VOTES = [
    *("majority", "mean_confidence_weighted", "tail_confidence_weighted"),
    *("bottom_window_weighted", "min_window_weighted"),
    *("top10_tail_filtered", "top10_bottom_window_filtered"),
]
DECIMALS = 10

Runs = list[tuple[float, int]]
NOT_FINITE = {"nan": math.nan, "inf": math.inf}


def deepconf(checkout: Path) -> ModuleType:
    """Its `wrapper` module. What it imports to run models is not used, and need not be there."""
    for name in ("vllm", "transformers", "deepconf.processors"):
        sys.modules[name] = ModuleType(name)
    vllm, transformers = sys.modules["vllm"], sys.modules["transformers"]
    vllm.LLM = vllm.SamplingParams = transformers.AutoTokenizer = None
    sys.modules["deepconf.processors"].WrappedPerReqLogitsProcessor = None
    sys.path.insert(0, str(checkout))
    import deepconf.wrapper

    return deepconf.wrapper


def runs(rng: np.random.Generator, is_whole: bool, is_long: bool) -> Runs:
    """Token confidences as (value, how many tokens have it)."""
    count = int(rng.integers(1, 9))
    longest = 1000 if is_long else 40
    values = rng.integers(1, 12, count) if is_whole else np.round(rng.gamma(4, 3, count), 3)
    return [(float(value), int(rng.integers(1, longest))) for value in values]


def trace_set(rng: np.random.Generator, is_whole: bool) -> list[dict[str, Any]]:
    """Traces with their answers: some, or most, are copies of each other, and one may be empty."""
    traces: list[dict[str, Any]] = []
    share_of_copies = float(rng.choice([0.2, 0.9]))
    num_answers = int(rng.integers(1, len(ANSWERS) + 1))
    for _ in range(int(rng.integers(1, 15))):
        if traces and rng.random() < share_of_copies:
            confidences = traces[int(rng.integers(len(traces)))]["runs"]
        elif rng.random() < 0.03:
            confidences = []
        else:
            confidences = runs(rng, is_whole, is_long=rng.random() < 0.4)
        answer = ANSWERS[int(rng.integers(num_answers))]
        traces.append({"answer": answer, "runs": confidences})
    return traces


def spoiled(rng: np.random.Generator, traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same traces, some with a token or two that have no finite confidence."""
    made = []
    for trace in traces:
        parts: list[tuple[float | str, int]] = list(trace["runs"])
        if rng.random() < 0.4:
            kind = "nan" if rng.random() < 0.7 else "inf"
            parts.insert(int(rng.integers(len(parts) + 1)), (kind, int(rng.integers(1, 3))))
        made.append({**trace, "runs": parts})
    return made


def confidences(trace: dict[str, Any], keep_all: bool) -> list[float]:
    every = [NOT_FINITE.get(value, value) for value, count in trace["runs"] for _ in range(count)]
    return every if keep_all else [value for value in every if math.isfinite(value)]


def completion(trace: dict[str, Any], keep_all: bool) -> SimpleNamespace:
    """A trace as vLLM's `RequestOutput`. One candidate a token has the mean of all of them."""
    values = confidences(trace, keep_all)
    answer = trace["answer"]
    output = SimpleNamespace(
        text="No answer." if answer is None else f"It is $\\boxed{{{answer}}}$.",
        token_ids=[0] * len(values),
        logprobs=[{0: SimpleNamespace(logprob=np.float64(-value))} for value in values],
        finish_reason="stop",
    )
    return SimpleNamespace(outputs=[output])


def run(wrapper: ModuleType, case: dict[str, Any], keep_all: bool) -> dict[str, Any]:
    """What its online mode says of the set, by the names of its code."""
    ready = iter([completion(trace, keep_all) for trace in case["traces"]])
    thinker = wrapper.DeepThinkLLM.__new__(wrapper.DeepThinkLLM)
    thinker.llm = SimpleNamespace(generate=lambda prompts, _: [next(ready) for _ in prompts])
    thinker.tokenizer = SimpleNamespace(eos_token_id=0)
    thinker.model_name, thinker.init_times = "", {"llm_init_time": 0, "tokenizer_init_time": 0}
    with redirect_stdout(StringIO()):
        output = thinker.deepthink(
            "",
            mode="online",
            warmup_traces=case["warmup"],
            total_budget=len(case["traces"]),
            confidence_percentile=case["percent"],
            window_size=case["window"],
            sampling_params=SimpleNamespace(),
        )
        online = wrapper.weighted_majority_vote(output.voting_answers, output.voting_weights)
        utils = sys.modules["deepconf.utils"]
        offline = utils.compute_all_voting_results(output.all_traces)
    voters = {id(trace) for trace in output.all_voting_traces}
    scores = [
        [
            utils.calculate_mean_confidence(trace),
            utils.calculate_tail_confidence(trace),
            utils.calculate_bottom_window_confidence(trace),
            utils.calculate_bottom_window_confidence(trace, bottom_percent=-1),
        ]
        for trace in output.all_traces
    ]
    return {
        "min_confs": output.warmup_min_confs + output.final_min_confs,
        "conf_bar": output.conf_bar,
        "scores": scores,
        "voters": [i for i, trace in enumerate(output.all_traces) if id(trace) in voters],
        "online_answer": online,
        "online": in_order(output.voting_results),
        "offline": in_order(offline),
    }


def in_order(results: dict[str, dict[str, Any] | None]) -> list[list[Any] | None]:
    """Answer, number of votes and confidence of each vote; None where it has no result."""
    found = [results.get(vote) for vote in VOTES]
    return [one and [one["answer"], one["num_votes"], one["confidence"]] for one in found]


def survives_rounding(case: dict[str, Any], result: dict[str, Any]) -> bool:
    """No two different traces, and no trace and the threshold, are closer than rounding goes."""
    by_value: dict[float, set[str]] = {}
    for trace, value in zip(case["traces"], result["min_confs"], strict=True):
        by_value.setdefault(value, set()).add(json.dumps(trace["runs"]))
    values = sorted(by_value)
    gaps = [b - a for a, b in pairwise(values)]
    gaps += [abs(value - result["conf_bar"]) or GAP for value in values]
    return min(gaps) >= GAP and all(len(traces) == 1 for traces in by_value.values())


def draw(wrapper: ModuleType, rng: np.random.Generator, number: int) -> dict[str, Any]:
    is_whole, is_spoiled = number % 2 == 0, number % 4 >= 2
    while True:
        traces = trace_set(rng, is_whole)
        warmup = int(rng.choice(WARMUPS))
        if warmup >= len(traces):
            continue
        if is_spoiled:
            traces = spoiled(rng, traces)
        case = {
            "traces": traces,
            "window": 8 if is_whole else int(rng.choice([20, 50, 512])),
            "warmup": warmup,
            "percent": int(rng.choice(PERCENTS)),
        }
        result = run(wrapper, case, keep_all=False)
        # 0 is its number for an empty trace, and we have none.
        if result["conf_bar"] > 0 and (is_whole or survives_rounding(case, result)):
            break
    case["deepconf"] = result
    if is_spoiled:
        case["raw"] = run(wrapper, case, keep_all=True)["offline"]
    return case


def plain(value: Any) -> Any:
    """For JSON: rounded, with NaN and infinity as words."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), DECIMALS) if math.isfinite(value) else str(float(value))
    return value


def main(checkout: Path) -> None:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if found != COMMIT:
        raise SystemExit(f"wants commit {COMMIT}, found {found}")
    wrapper = deepconf(checkout)
    rng = np.random.default_rng(2508_15260)
    cases = [draw(wrapper, rng, number) for number in range(SETS)]
    recorded = {"commit": COMMIT, "votes": VOTES, "cases": plain(cases)}
    text = json.dumps(recorded, separators=(",", ":")).replace('{"traces"', '\n{"traces"')
    (HERE / "deepconf.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
