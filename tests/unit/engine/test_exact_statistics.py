"""What keeps the workers from exact token statistics, said in one place."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any

import pytest

from conf_server.engine.exact_statistics import (
    SPECULATIVE,
    WORKER_EXTENSION,
    install_token_statistics,
    obstacle_in_flags,
)
from conf_server.settings import ConfidenceSettings, SettingsError


class Workers:
    """An engine of which only the workers' answers matter."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def collective_rpc(self, method: str) -> list[str | None]:
        self.asked.append(method)
        return list(self.answers)


def flags(token_statistics: str = "auto", **given: Any) -> Namespace:
    return Namespace(
        token_statistics=token_statistics, **{"worker_extension_cls": WORKER_EXTENSION, **given}
    )


def install(workers: Workers, args: Namespace) -> str | None:
    return asyncio.run(install_token_statistics(workers, args))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "obstacle"),
    [
        ({}, None),
        ({"worker_extension_cls": ""}, None),
        ({"token_statistics": "topk"}, "--token-statistics topk was given"),
        ({"spec_method": "ngram"}, SPECULATIVE),
        ({"enable_batch_sharded_sampling": True}, "batch-sharded sampling"),
        ({"enable_elastic_ep": True}, "elastic expert parallelism"),
        ({"runner": "pooling"}, "a pooling model samples nothing"),
        ({"worker_extension_cls": "mine.Extension"}, "--worker-extension-cls is taken"),
    ],
)
def test_flags_that_stand_in_the_way(given: dict[str, Any], obstacle: str | None) -> None:
    found = obstacle_in_flags(flags(**given))
    assert found is None if obstacle is None else found is not None and obstacle in found


def test_every_worker_has_to_agree() -> None:
    assert install(Workers(None, None), flags()) is None
    assert install(Workers(None, SPECULATIVE), flags()) == SPECULATIVE


def test_workers_are_not_asked_where_the_flags_forbid_it() -> None:
    workers = Workers(None)
    assert install(workers, flags("topk")) == "--token-statistics topk was given"
    assert not workers.asked


def test_statistics_that_were_demanded_are_not_silently_missing() -> None:
    with pytest.raises(SettingsError, match=f"--token-statistics engine: {SPECULATIVE}"):
        install(Workers(SPECULATIVE), flags("engine"))


def test_settings_know_the_obstacle() -> None:
    assert not ConfidenceSettings().engine_statistics
    assert ConfidenceSettings(statistics_obstacle=None).engine_statistics
    assert not ConfidenceSettings(statistics_obstacle=SPECULATIVE).engine_statistics
