"""lm-polygraph's benchmarks on a served model.

from lm_polygraph.estimators import MeanTokenEntropy, SemanticEntropy
from conf_server.integrations.lm_polygraph import stat_calculators, whitebox_model

model = whitebox_model("/models/SmolLM2", "http://localhost:8000")
manager = UEManager(data, model, [MeanTokenEntropy()],
                    BuilderEnvironmentStatCalculator(model), stat_calculators(), ...)

lm-polygraph's own script reads the same from its configuration: docs/lm-polygraph.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_polygraph import WhiteboxModel
from lm_polygraph.defaults.register_default_stat_calculators import (
    register_default_stat_calculators,
)
from lm_polygraph.stat_calculators import StatCalculator
from lm_polygraph.utils.factory_stat_calculator import StatCalculatorContainer
from lm_polygraph.utils.generation_parameters import GenerationParameters

from conf_server.integrations.polygraph_calculators import CALCULATORS
from conf_server.integrations.polygraph_model import load_model, load_tokenizer

__all__ = [
    "load_model",
    "load_stat_calculator",
    "load_tokenizer",
    "served_stat_calculators",
    "stat_calculators",
    "whitebox_model",
]

_BY_NAME = {calculator.__name__: calculator for calculator in CALCULATORS}


def whitebox_model(
    model_path: str,
    base_url: str = "http://localhost:8000",
    generation_parameters: GenerationParameters | None = None,
    *,
    instruct: bool = False,
    **options: Any,
) -> WhiteboxModel:
    """lm-polygraph's own model class around a served model.

    Args:
        model_path, base_url, options: as of `load_model`.
        instruct: whether texts are turns of a user's, to be put into the chat template.

    Raises:
        ValueError, ServerError, UnavailableError: as `load_model`.
    """
    return WhiteboxModel(
        load_model(model_path, base_url, **options),
        load_tokenizer(model_path),
        model_path,
        "CausalLM",
        generation_parameters or GenerationParameters(),
        instruct=instruct,
    )


def stat_calculators(
    options: Mapping[str, Mapping[str, Any]] | None = None, **defaults: Any
) -> list[StatCalculatorContainer]:
    """lm-polygraph's own calculators, with ours in place of those that run a model.

    Args:
        options: as of `served_stat_calculators`.
        defaults: options of lm-polygraph's `register_default_stat_calculators`.
    """
    theirs = register_default_stat_calculators("Whitebox", **defaults)
    return [*theirs, *served_stat_calculators(options)]


def served_stat_calculators(
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[StatCalculatorContainer]:
    """Our calculators. Of several that give a statistic, lm-polygraph takes the last.

    Args:
        options: by the name of a calculator, those of its constructor.

    Raises:
        ValueError: there is no calculator of such a name.
    """
    given = options or {}
    unknown = sorted(name for name in given if name not in _BY_NAME)
    if unknown:
        raise ValueError(f"{unknown[0]}: not one of {', '.join(_BY_NAME)}")
    return [
        StatCalculatorContainer(
            name=name,
            obj=calculator,
            builder=__name__,
            cfg={"calculator": name, **given.get(name, {})},
            stats=calculator.meta_info()[0],
            dependencies=calculator.meta_info()[1],
        )
        for name, calculator in _BY_NAME.items()
    ]


def load_stat_calculator(config: Mapping[str, Any], environment: object) -> StatCalculator:
    """What lm-polygraph calls of a `builder`: makes one of our calculators.

    Args:
        config: its name as `calculator`, and the options of its constructor.
        environment: has lm-polygraph's model; none of ours needs it before it is called.
    """
    options = {str(name): value for name, value in config.items()}
    return _BY_NAME[options.pop("calculator")](**options)
