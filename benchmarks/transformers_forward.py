"""transformers as a scorer, which is what people use without a server.

It runs in a process of its own (`python -m benchmarks.transformers_forward MODEL`) that is started
once. It reads lines of JSON with token ids, and writes lines of JSON with their log-probabilities
and the time that these took.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.servers import ROOT, ServerError

Item = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Forward:
    """What one forward pass for each of some items took, and what it said.

    Attributes:
        peak_mb: the most memory that the process has ever had resident.
    """

    seconds: float
    cpu_seconds: float
    mean_logprobs: list[float]
    peak_mb: float


class TransformersProcess:
    """The parent's end of the process."""

    def __init__(self, model: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.transformers_forward", model],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        self._read()

    def score(
        self, items: Sequence[Item], *, inner: bool = False, threads: int | None = None
    ) -> Forward:
        """Read items.

        Args:
            inner: keep all layers' hidden states and attention weights meanwhile.
            threads: how many the CPU's kernels take; None for as many as there are cores.
        """
        assert self._process.stdin is not None
        asked = {"items": items, "inner": inner, "threads": threads}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Forward(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(errors="replace")[-3000:]
            raise ServerError(f"transformers failed.\n{tail}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def transformers_process(model: str, logs: Path) -> Iterator[TransformersProcess]:
    """Keep transformers ready, with the model loaded, until the context ends."""
    logs.mkdir(parents=True, exist_ok=True)
    process = TransformersProcess(model, logs / "transformers.log")
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


def main() -> None:
    # These are imported here because the parent has no use for torch, whose import takes seconds.
    import torch

    from conf_server.check.transformers_scorer import TransformersScorer

    scorer = TransformersScorer(sys.argv[1])

    @torch.inference_mode()
    def mean_logprob(context: list[int], completion: list[int]) -> float:
        logits = scorer.logits(context + completion)[len(context) - 1 :]
        chosen = torch.tensor(completion, device=scorer.device)[:, None]
        return logits.log_softmax(-1).gather(1, chosen).mean().item()

    @torch.inference_mode()
    def inner_states(context: list[int], completion: list[int]) -> float:
        scorer.model.set_attn_implementation("eager")  # the others hold no weights
        ids = torch.tensor([context + completion], device=scorer.device)
        output = scorer.model(ids, output_hidden_states=True, output_attentions=True)
        return float(output.hidden_states[-1].mean() + output.attentions[-1].mean())

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    mean_logprob([0] * 64, [0] * 8)  # The first pass allocates memory and plans kernels.
    answer({"ready": True})
    all_threads = torch.get_num_threads()
    for line in sys.stdin:
        asked = json.loads(line)
        torch.set_num_threads(asked["threads"] or all_threads)
        read = inner_states if asked["inner"] else mean_logprob
        start, cpu = time.perf_counter(), time.process_time()
        means = [read(*item) for item in asked["items"]]
        answer(
            {
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - cpu,
                "mean_logprobs": means,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
            }
        )


if __name__ == "__main__":
    main()
