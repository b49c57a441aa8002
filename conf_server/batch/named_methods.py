"""--methods and --similarity, held once against what the server has, before any line is sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from conf_server.batch.batch_client import BatchClient
from conf_server.batch.options import BatchOptions, StopRunError, UsageError
from conf_server.nearest import did_you_mean
from conf_server.uncertainty.needs import Asks, Need
from conf_server.uncertainty.registry import GROUPS, METHODS, MethodError, load_entry_points

PATH: Final = "/v1/uncertainty/methods"

_JUDGED: Final = frozenset(need.value for need in Need if Asks.JUDGE in need.asks)
"""Needs that a line can have met by another `similarity`."""


def require_own_methods(options: BatchOptions) -> None:
    """Refuse names that a server of this installation does not have.

    Raises:
        UsageError: naming the first one, or the installed package whose methods cannot be loaded.
    """
    try:
        load_entry_points()
    except MethodError as error:
        raise UsageError(str(error)) from error
    _require_names(_named(options), {*METHODS, *GROUPS})


async def require_methods(client: BatchClient, options: BatchOptions) -> None:
    """Refuse names that the server does not have, and methods that it can do for no line.

    Raises:
        UsageError: naming the first one, and why the server cannot do it.
        StopRunError: there is no server, it wants another key, or it is no conf-server.
    """
    named, similarity = _named(options), options.defaults.get("similarity")
    if not named and similarity is None:
        return
    said = await client.get(PATH)
    match said:
        case {"data": list(methods), "groups": dict(groups)}:
            there = {one["name"]: one for one in methods}
            _require_names(named, {*there, *groups})
            for name in named:
                if name in there:
                    _require_available(there[name])
        case _:
            raise StopRunError(f"{PATH}: the answer is none of conf-server's")
    judges = said.get("similarities")
    if similarity is not None and isinstance(judges, list) and similarity not in judges:
        raise UsageError(
            f"--similarity: nothing named {similarity!r} compares texts on this server, only "
            f"{', '.join(judges)}"
        )


def _named(options: BatchOptions) -> Sequence[str]:
    return tuple(options.defaults.get("methods", ()))


def _require_names(named: Sequence[str], there: Collection[str]) -> None:
    for name in named:
        if name not in there:
            hint = did_you_mean(name, there)
            raise UsageError(f"--methods: the server has no method or group {name!r}{hint}")


def _require_available(method: dict[str, Any]) -> None:
    can_be_had = _JUDGED.intersection(method.get("needs", ()))
    if method.get("available") is False and not can_be_had:
        raise UsageError(f"--methods {method['name']}: {method.get('reason')}")
