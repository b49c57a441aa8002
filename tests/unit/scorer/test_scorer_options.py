"""The scorer's flags, and how they become a model's options."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import pytest

from conf_server.scorer.scorer_options import ScorerSettings, add_scorer_args
from conf_server.settings import ConfidenceSettings, SettingsError


def parsed(*flags: str) -> Namespace:
    parser = ArgumentParser()
    add_scorer_args(parser)
    served = Namespace(model="served", tokenizer="words", revision="v2", trust_remote_code=True)
    return parser.parse_args(flags, served)


def settings_of(*flags: str) -> ScorerSettings:
    settings = ScorerSettings.from_args(parsed(*flags))
    assert settings is not None
    return settings


def test_there_is_none_unless_it_is_wanted() -> None:
    assert ScorerSettings.from_args(parsed()) is None
    assert ScorerSettings.from_args(parsed("--scorer=none")) is None
    assert settings_of("--scorer=transformers") == ScorerSettings()


def test_it_runs_the_served_model_as_it_is_served() -> None:
    settings = settings_of("--scorer=transformers", "--scorer-dtype=bfloat16")
    options = settings.options(parsed(), ConfidenceSettings(max_forced_tokens=5))
    assert settings.runs("served")
    assert (options.model, options.tokenizer, options.revision) == ("served", "words", "v2")
    assert (options.dtype, options.device, options.trust_remote_code) == ("bfloat16", "auto", True)
    assert options.max_forced_tokens == 5


def test_another_model_has_its_own_tokenizer() -> None:
    settings = settings_of("--scorer=transformers", "--scorer-model=other")
    options = settings.options(parsed(), ConfidenceSettings())
    assert not settings.runs("served")
    assert (options.model, options.tokenizer, options.revision) == ("other", None, None)
    assert settings_of("--scorer=transformers", "--scorer-model=served").runs("served")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--scorer-model=x",), "--scorer-model: it is of no use without --scorer transformers"),
        (("--scorer-max-queue=3",), "--scorer-max-queue: it is of no use without"),
        (("--scorer=transformers", "--scorer-max-queue=0"), "--scorer-max-queue: .* got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ScorerSettings.from_args(parsed(*flags))


def test_a_device_that_is_none_is_refused_by_its_flag() -> None:
    settings = settings_of("--scorer=transformers", "--scorer-device=tpu")
    with pytest.raises(SettingsError, match=r"^--scorer-device: must be .*'tpu'"):
        settings.options(parsed(), ConfidenceSettings())
