"""Flags of the scorer, checked before anything is loaded."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from conf_server.backends.transformers_options import Dtype, Quantization, TransformersOptions
from conf_server.settings import ConfidenceSettings, SettingsError

Mode = Literal["resident", "swap"]

_OWN: Final = ("model", "device", "dtype", "quantization", "mode", "max_queue")


@dataclass(frozen=True)
class ScorerSettings:
    """A scorer that the server is to have.

    Attributes:
        model: a folder, or a name on a hub; None for the served model.
        device, dtype, quantization: as in `TransformersOptions`.
        mode: resident keeps the model beside the engine; swap gives each the GPU in turn.
        max_queue: requests that it may have at a time.
    """

    model: str | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    mode: Mode = "resident"
    max_queue: int = 64

    @classmethod
    def from_args(cls, args: Namespace) -> ScorerSettings | None:
        """What the flags of `add_scorer_args` say; None for no scorer.

        Raises:
            SettingsError: a flag of a scorer's without one, or a number that cannot be meant.
        """
        named = {name: getattr(args, f"scorer_{name}", None) for name in _OWN}
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        if getattr(args, "scorer", "none") == "none":
            for name in given:
                flag = f"--scorer-{name.replace('_', '-')}"
                raise SettingsError(f"{flag}: it is of no use without --scorer transformers")
            return None
        if given.get("max_queue", 1) < 1:
            raise SettingsError(f"--scorer-max-queue: must be at least 1, got {given['max_queue']}")
        return cls(**given)

    def runs(self, served: str) -> bool:
        """Whether the scorer's model is the served one."""
        return self.model in (None, served)

    def options(self, args: Namespace, settings: ConfidenceSettings) -> TransformersOptions:
        """How its process loads the model.

        The longest text is what the model's config says, and not --max-model-len: no memory is set
        aside for it, and the engine looks after its own limit.

        Args:
            args: the flags of the server.

        Raises:
            SettingsError: naming the flag.
        """
        same: dict[str, Any] = {}
        if self.runs(args.model):
            same = {"revision": args.revision, "tokenizer": args.tokenizer}
        try:
            return TransformersOptions(
                self.model or args.model,
                device=self.device,
                dtype=self.dtype,
                quantization=self.quantization,
                max_attention_bytes=settings.max_attention_bytes,
                max_forced_tokens=settings.max_forced_tokens,
                trust_remote_code=args.trust_remote_code,
                parked=self.mode == "swap",
                **same,
            )
        except SettingsError as error:
            raise SettingsError(str(error).replace("--", "--scorer-", 1)) from error


def add_scorer_args(parser: ArgumentParser) -> None:
    """Add the scorer's flags as a group of their own. Those that are not given are absent."""
    defaults = ScorerSettings()
    group = parser.add_argument_group(
        "Scorer", "A second process that reads texts where the engine cannot."
    )
    group.add_argument(
        "--scorer",
        choices=("none", "transformers"),
        default="none",
        help="transformers: a process of its own runs the served model too, with transformers, and "
        "gives /v1/uncertainty the hidden states and attention weights that the engine does not.",
    )
    group.add_argument(
        "--scorer-model",
        default=SUPPRESS,
        metavar="PATH",
        help="Another model for it. Then attention_score and eigenscore are of that model, and "
        "whatever else has to be read has to be read by the engine. Default: the served model.",
    )
    group.add_argument(
        "--scorer-device",
        default=SUPPRESS,
        metavar="DEVICE",
        help="cpu, cuda:N, or auto: the first GPU where there is one. On a GPU of the engine's, "
        "--gpu-memory-utilization is lowered by what the scorer needs unless it is given. Default: "
        f"{defaults.device}.",
    )
    group.add_argument(
        "--scorer-dtype",
        default=SUPPRESS,
        choices=get_args(Dtype),
        help="Of its weights. auto: float32 on the CPU, on a GPU what the model's config says. "
        f"Default: {defaults.dtype}.",
    )
    group.add_argument(
        "--scorer-quantization",
        default=SUPPRESS,
        choices=get_args(Quantization),
        help=f"Of its weights as they are loaded. Default: {defaults.quantization}.",
    )
    group.add_argument(
        "--scorer-mode",
        default=SUPPRESS,
        choices=get_args(Mode),
        help="resident: it stays in memory beside the engine. swap: the two have the GPU in turn; "
        "while the scorer reads, the engine sleeps, and its requests wait. Default: "
        f"{defaults.mode}.",
    )
    group.add_argument(
        "--scorer-max-queue",
        default=SUPPRESS,
        metavar="N",
        type=int,
        help="Requests that it may have at a time, those that wait included; further ones get 503. "
        f"Default: {defaults.max_queue}.",
    )
