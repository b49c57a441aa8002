"""The scorer as a part of the server: what the platform allows, its start and end, its memory."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vllm import envs
from vllm.logger import init_logger
from vllm.platforms import current_platform

from conf_server.engine.weights import weights_bytes
from conf_server.scorer.scorer_options import ScorerSettings
from conf_server.scorer.supervisor import RunningScorer, Supervisor
from conf_server.settings import ConfidenceSettings, SettingsError

ROOM: Final = 1.3
"""Memory of a scorer on a GPU, as a multiple of what its weights take on disk."""

LEAST_SHARE: Final = 0.05
"""Of a GPU's memory, with which an engine may still be tried."""

logger = init_logger("vllm.conf_server.scorer")


class DefaultShare(float):
    """The default of --gpu-memory-utilization, which tells it from a number that was given."""


def check_scorer(
    args: Namespace, scorer: ScorerSettings | None, settings: ConfidenceSettings
) -> None:
    """Refuse what cannot be had here, before anything is loaded; let an engine sleep that has to.

    Raises:
        SettingsError: naming the flag.
    """
    if scorer is None:
        return
    if args.headless:
        raise SettingsError("--scorer: no API server runs with --headless")
    if scorer.mode == "swap":
        if obstacle := swap_obstacle(args, scorer):
            raise SettingsError(f"--scorer-mode swap: {obstacle}")
        args.enable_sleep_mode = True
    scorer.options(args, settings)


def swap_obstacle(args: Namespace, scorer: ScorerSettings) -> str | None:
    """Why engine and scorer cannot have a GPU in turn; None where they can."""
    if not current_platform.is_sleep_mode_available():
        return "it needs vLLM's sleep mode, which this platform does not have"
    if not on_engine_gpu(args, scorer.device):
        return f"the scorer on {scorer.device} shares no GPU with the engine: resident is for it"
    if scorer.quantization != "none":
        return "quantized weights cannot be moved: leave --scorer-quantization out"
    if args.data_parallel_size > 1 or (args.api_server_count or 1) > 1:
        return "one engine and one API process take turns, and no more"
    if envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING:
        return "VLLM_ALLOW_RUNTIME_LORA_UPDATING would load adapters into an engine that sleeps"
    return None


@contextmanager
def running_scorer(
    args: Namespace, scorer: ScorerSettings | None, settings: ConfidenceSettings
) -> Iterator[RunningScorer | None]:
    """A scorer, if the flags want one, as long as this lasts. It is loaded before the engine is.

    vLLM measures what memory is free when it starts: the scorer must have taken its own by then.

    Raises:
        SettingsError: the scorer cannot be loaded.
    """
    if scorer is None:
        yield None
        return
    options = scorer.options(args, settings)
    same = scorer.runs(args.model)
    with Supervisor(options, scorer.max_queue, same_model=same) as running:
        if options.parked:
            logger.info("The scorer and the engine have the GPU in turn.")
        elif on_engine_gpu(args, scorer.device):
            # By now the process has its files in the hub's own cache, wherever --download-dir is.
            size = weights_bytes(options.model, options.revision, None)
            leave_room(args, size, current_platform.get_device_total_memory())
        yield running


def on_engine_gpu(args: Namespace, device: str) -> bool:
    """Whether the scorer's device is a GPU that the engine uses, too."""
    if device == "cpu" or not current_platform.is_cuda_alike():
        return False
    number = int(device.partition(":")[2] or 0)
    replicas = args.data_parallel_size_local or args.data_parallel_size
    return number < args.tensor_parallel_size * args.pipeline_parallel_size * replicas


def leave_room(args: Namespace, size: int | None, total: int) -> None:
    """Lower --gpu-memory-utilization by what the scorer needs, unless it was given.

    Args:
        size: of the scorer's weights on disk, in bytes; None where it is not known.
        total: memory of the GPU, in bytes.

    Raises:
        SettingsError: nothing would be left for the engine.
    """
    share = args.gpu_memory_utilization
    if not isinstance(share, DefaultShare):
        logger.warning(
            "--gpu-memory-utilization %.2f stays as it was given: the scorer needs memory of the "
            "same GPU, about %.1f times the bytes of its weights.",
            share,
            ROOM,
        )
        return
    if size is None:
        logger.warning(
            "The size of the scorer's weights is not known: --gpu-memory-utilization stays at "
            "%.2f. Lower it if the GPU has too little memory for both.",
            share,
        )
        return
    left = float(share) - ROOM * size / total
    if left < LEAST_SHARE:
        raise SettingsError(
            f"--scorer: with {ROOM * size / 2**30:.1f} GiB for it, the GPU's "
            f"{total / 2**30:.1f} GiB leave nothing for the engine: see --scorer-device and "
            "--scorer-quantization"
        )
    args.gpu_memory_utilization = left
    logger.info(
        "--gpu-memory-utilization lowered from %.3f to %.3f: the scorer is on the same GPU, and "
        "%.1f GiB are left to it.",
        share,
        left,
        ROOM * size / 2**30,
    )
