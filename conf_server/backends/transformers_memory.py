"""Running out of memory, and going on with less at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final, TypeVar

import torch

from conf_server.refusal import RefusalError

Item = TypeVar("Item")
Result = TypeVar("Result")

_SIGNS: Final = (
    "can't allocate memory",  # the CPU's allocator
    "not enough memory",  # the same on Windows, and posix_memalign's
    "out of memory",  # CUDA, outside of torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that no memory was left, on the device or in the process."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def release() -> None:
    """Give back what nobody uses any more.

    Call it outside of the `except` clause: the exception holds the frames whose tensors are meant.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def no_memory(what: str) -> RefusalError:
    """The refusal of a request that does not fit alone."""
    return RefusalError(
        None,
        f"no memory is left for {what}; the server goes on. Send less at a time, or lower "
        "--max-model-len.",
        status=503,
        kind="ServiceUnavailableError",
    )


def in_halves(
    items: list[Item], work: Callable[[list[Item]], list[Result]], what: str
) -> list[Result | RefusalError]:
    """Work on all items at once, or on halves of them where memory does not suffice.

    Args:
        what: one item, for the message of the refusal that it gets if it does not fit alone.
    """
    try:
        return [*work(items)]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release()
    if len(items) == 1:
        return [no_memory(what)]
    middle = len(items) // 2
    return [*in_halves(items[:middle], work, what), *in_halves(items[middle:], work, what)]
