"""Whether the workers can compute token statistics, and asking them to."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from vllm.logger import init_logger
from vllm.platforms import current_platform

logger = init_logger("vllm.conf_server.token_statistics")

WORKER_EXTENSION: Final = "conf_server.engine.worker.extension.StatisticsExtension"
SPECULATIVE: Final = "speculative decoding samples elsewhere"

_SPECULATIVE_FLAGS: Final = ("speculative_config", "spec_method", "spec_model", "spec_tokens")


def obstacle(args: Namespace) -> str | None:
    """What in the flags keeps the workers from it; None where nothing does.

    The workers have the last word (`install_token_statistics`): a checkpoint, too, can bring
    speculative decoding along.
    """
    if any(getattr(args, flag, None) for flag in _SPECULATIVE_FLAGS):
        return SPECULATIVE
    if getattr(args, "enable_batch_sharded_sampling", False):
        return "batch-sharded sampling cuts extra columns off"
    if getattr(args, "enable_elastic_ep", False):
        return "elastic expert parallelism starts workers later"
    if getattr(args, "runner", None) == "pooling":
        return "a pooling model samples nothing"
    if getattr(args, "worker_extension_cls", "") not in ("", WORKER_EXTENSION):
        return "--worker-extension-cls is taken"
    if not (current_platform.is_cpu() or current_platform.is_cuda()):
        return f"not tried on {current_platform.device_name}"
    return None
