"""Server-wide confidence options: flag > environment > default, validated once at start."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Mode = Literal["per_token", "summary", "stats", "empty"]
MODES: Final[tuple[str, ...]] = get_args(Mode)

TOKEN_STATISTICS: Final = ("auto", "engine", "topk")
LOGPROBS_ENCODERS: Final = ("fast", "vllm")

HIDDEN_STATES_OFF: Final = "hidden states are off: start the server with --enable-hidden-states"
"""Why there are none, where no flag asks for them."""

MAX_WINDOW: Final = 2**31 - 1
_LIMITS: Final = (
    "max_score_items",
    "max_score_entries",
    "max_forced_tokens",
    "max_hidden_state_values",
    "max_attention_bytes",
    "max_uncertainty_samples",
    "max_uncertainty_tokens",
    "max_judged_characters",
    "max_body_bytes",
    "max_engine_silence",
)

ENV_MODE: Final = "VLLM_CONF_MODE"
ENV_TOP_K: Final = "VLLM_CONF_TOPK"

_MODE_HELP = (
    "What chat and completion answers with log-probabilities carry unless the request says "
    "otherwise: per_token (every token with its confidence), summary (the same without "
    "top_logprobs), stats (five numbers), empty (nothing). "
    f"Environment: {ENV_MODE}. Default: per_token."
)


class SettingsError(ValueError):
    """A start option with a value that cannot be meant. The message names the option."""


class StartError(RuntimeError):
    """A server that cannot start now, and may at another time. The message is for people."""


@dataclass(frozen=True)
class ConfidenceSettings:
    """Defaults of every request, and limits.

    Attributes:
        mode: what an answer carries; see `MODES`.
        top_k: candidates a token's confidence is the mean of.
        window: sliding window of the summary, in tokens.
        max_score_items: texts one request to /v1/score or /v1/hidden_states may hold.
        max_score_entries: tokens, and candidates of tokens, that one answer of /v1/score may list.
        max_forced_tokens: tokens that all texts of one request, each with its context, may have
            together; texts are those that the model reads and did not write.
        default_methods: estimates that answers with confidence carry, and that /v1/uncertainty
            makes where a request names none.
        enable_hidden_states: whether /v1/hidden_states answers.
        scorer: whether a second process reads texts where the engine cannot.
        fitted: folder of what `conf-server fit` has learned of the model; None for none.
        max_hidden_state_values: numbers, of 4 bytes each, that one answer of it may hold, or that
            a trained head may read of one text.
        max_attention_bytes: that a worker may use at a time to recompute attention weights.
        max_uncertainty_samples: samples that one /v1/uncertainty request may draw or bring.
        max_uncertainty_tokens: tokens that its answer and samples, given or generated, may
            have together.
        max_judged_characters: of texts that all its methods together have to compare.
        max_body_bytes: of a request.
        max_engine_silence: seconds for which the engine may have requests and say nothing, before
            GET /ready says no.
        logprobs_encoder: what makes JSON of log-probabilities; see `LOGPROBS_ENCODERS`.
        uhead: folder of a trained uncertainty head; None for none.
        embedding_model, nli_model: folders or names of models that compare texts.
        similarity_device: where they run, as torch names it.
        statistics_obstacle: why the workers compute no exact token statistics, or None where
            they do. No flag alone decides it: the launcher asks the workers at start.
    """

    mode: Mode = "per_token"
    top_k: int = 20
    window: int = 2048
    max_score_items: int = 1024
    max_score_entries: int = 2_097_152
    max_forced_tokens: int = 8_388_608
    default_methods: tuple[str, ...] = ()
    enable_hidden_states: bool = False
    scorer: bool = False
    fitted: str | None = None
    max_hidden_state_values: int = 16_777_216
    max_attention_bytes: int = 2**28
    max_uncertainty_samples: int = 100
    max_uncertainty_tokens: int = 131_072
    max_judged_characters: int = 32_000_000
    max_body_bytes: int = 67_108_864
    max_engine_silence: int = 60
    logprobs_encoder: str = "fast"
    uhead: str | None = None
    embedding_model: str | None = None
    nli_model: str | None = None
    similarity_device: str = "cpu"
    statistics_obstacle: str | None = "the workers have not been asked for them"
    early_stop_obstacle: str | None = None

    @property
    def engine_statistics(self) -> bool:
        """Whether the workers compute exact token statistics."""
        return self.statistics_obstacle is None

    @classmethod
    def from_args(cls, args: Namespace, environ: Mapping[str, str]) -> ConfidenceSettings:
        """Resolve the flags of `add_cli_args`; those that `args` does not know are not given.

        Raises:
            SettingsError: an unknown mode, a number that is none or too small, or a flag without
                the one that it needs.
        """
        given = vars(args)
        mode, mode_from = _first(
            given.get("confidence_mode"), environ, ENV_MODE, "--confidence-mode"
        )
        top_k, top_k_from = _first(
            given.get("confidence_top_k"), environ, ENV_TOP_K, "--confidence-top-k"
        )
        mode = cls.mode if mode is None else mode
        if mode not in MODES:
            raise SettingsError(f"{mode_from}: must be one of {', '.join(MODES)}, got {mode!r}")
        window = given.get("confidence_window", cls.window)
        limits: dict[str, Any] = {
            name: _positive(given.get(name, getattr(cls, name)), f"--{name.replace('_', '-')}")
            for name in _LIMITS
        }
        return cls(
            mode=mode,  # type: ignore[arg-type]
            top_k=_positive(cls.top_k if top_k is None else top_k, top_k_from),
            window=_positive(window, "--confidence-window", MAX_WINDOW),
            default_methods=_names(given.get("default_methods")),
            enable_hidden_states=given.get("enable_hidden_states", cls.enable_hidden_states),
            scorer=_has_scorer(given),
            fitted=_fitted(given),
            logprobs_encoder=given.get("logprobs_encoder", cls.logprobs_encoder),
            uhead=given.get("uhead"),
            embedding_model=given.get("embedding_model"),
            nli_model=given.get("nli_model"),
            similarity_device=given.get("similarity_device", cls.similarity_device),
            **limits,
        )


def add_cli_args(parser: ArgumentParser) -> None:
    """Add our flags as a group of their own: those of any server, and those that vLLM's engine
    needs beside its own.
    """
    group = add_shared_args(parser)
    defaults = ConfidenceSettings()
    group.add_argument(
        "--token-statistics",
        choices=TOKEN_STATISTICS,
        default="auto",
        help="Where token statistics come from: engine (exact, computed by the workers), topk "
        "(top-k log-probabilities), auto (engine where it can).",
    )
    group.add_argument(
        "--logprobs-encoder",
        choices=LOGPROBS_ENCODERS,
        default=defaults.logprobs_encoder,
        help="What writes log-probabilities into answers: fast (joins ready-made JSON of each "
        "token), vllm (an object for each candidate, as vllm serve does). Both write the same "
        "values.",
    )
    group.add_argument(
        "--max-engine-silence",
        metavar="SECONDS",
        default=defaults.max_engine_silence,
        help="How long the engine may have requests and say nothing, before GET /ready answers "
        "503.",
    )


def add_shared_args(parser: ArgumentParser) -> Any:
    """Add our flags of any server, and return their group."""
    defaults = ConfidenceSettings()
    group = parser.add_argument_group(
        "Confidence", "What conf-server adds to OpenAI's API: how sure the model was."
    )
    # Strings, and absent where not given: from_args checks flag and environment alike.
    group.add_argument("--confidence-mode", metavar="MODE", default=SUPPRESS, help=_MODE_HELP)
    group.add_argument(
        "--confidence-top-k",
        metavar="K",
        default=SUPPRESS,
        help="How many of the likeliest candidates a token's confidence is the mean of. "
        f"Environment: {ENV_TOP_K}. Default: {defaults.top_k}.",
    )
    group.add_argument(
        "--confidence-window",
        metavar="TOKENS",
        default=defaults.window,
        help="Sliding window of the summary, in tokens; other values rename its keys.",
    )
    group.add_argument(
        "--default-methods",
        metavar="A,B",
        default=None,
        help="Methods of /v1/uncertainty that every answer with confidence carries under "
        "`uncertainty`, and that /v1/uncertainty takes where a request names none. Metrics of an "
        "answer's own tokens cost nothing; for others the model is asked again before the answer "
        "ends. A method that this server cannot do ends the start.",
    )
    group.add_argument(
        "--max-score-items",
        metavar="N",
        default=defaults.max_score_items,
        help="Texts one request to /v1/score or /v1/hidden_states may hold.",
    )
    group.add_argument(
        "--max-score-entries",
        metavar="N",
        default=defaults.max_score_entries,
        help="Tokens, and candidates of tokens, that one answer of /v1/score may list.",
    )
    group.add_argument(
        "--max-forced-tokens",
        metavar="N",
        default=defaults.max_forced_tokens,
        help="Tokens that all texts of one request to /v1/score, /v1/hidden_states or "
        "/v1/uncertainty may have together, each with its context.",
    )
    group.add_argument(
        "--enable-hidden-states",
        action="store_true",
        help="Let /v1/hidden_states answer what the model's layers make of a text, and "
        "/v1/uncertainty use it.",
    )
    group.add_argument(
        "--fitted",
        metavar="DIR",
        default=None,
        help="What `conf-server fit` has learned of this model's hidden states, for the methods of "
        "/v1/uncertainty that have to be fitted. Needs --enable-hidden-states.",
    )
    group.add_argument(
        "--max-hidden-state-values",
        metavar="N",
        default=defaults.max_hidden_state_values,
        help="Numbers, of 4 bytes each, that one answer of /v1/hidden_states may hold, or that the "
        "head of --uhead may read of one text.",
    )
    group.add_argument(
        "--max-attention-bytes",
        metavar="BYTES",
        default=defaults.max_attention_bytes,
        help="Memory of the device that a worker may use at a time to recompute attention weights.",
    )
    group.add_argument(
        "--max-uncertainty-samples",
        metavar="N",
        default=defaults.max_uncertainty_samples,
        help="Samples that one /v1/uncertainty request may draw or bring.",
    )
    group.add_argument(
        "--max-uncertainty-tokens",
        metavar="N",
        default=defaults.max_uncertainty_tokens,
        help="Tokens that the answer and samples of one /v1/uncertainty request, given or "
        "generated, may have together.",
    )
    group.add_argument(
        "--max-judged-characters",
        metavar="N",
        default=defaults.max_judged_characters,
        help="Characters of texts that have to be compared for all methods of one "
        "/v1/uncertainty request together; methods that would go beyond are unavailable.",
    )
    group.add_argument(
        "--max-body-bytes",
        metavar="N",
        default=defaults.max_body_bytes,
        help="Bytes that the body of a request to any route may have.",
    )
    group.add_argument(
        "--uhead",
        metavar="DIR",
        default=None,
        help="A trained uncertainty head of this model, as the luh package or conf-server fit "
        "--methods uhead writes it, for the method uhead of /v1/uncertainty. Most heads need "
        "--enable-hidden-states.",
    )
    group.add_argument(
        "--embedding-model",
        metavar="PATH",
        default=None,
        help="A sentence-embedding model that compares texts for /v1/uncertainty.",
    )
    group.add_argument(
        "--nli-model",
        metavar="PATH",
        default=None,
        help="A cross-encoder for natural language inference that compares texts.",
    )
    group.add_argument(
        "--similarity-device",
        metavar="DEVICE",
        default=defaults.similarity_device,
        help="Where these two models run: cpu, cuda, cuda:1, ...",
    )
    return group


def _names(text: str | None) -> tuple[str, ...]:
    names = [name.strip() for name in (text or "").split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def _fitted(given: Mapping[str, Any]) -> str | None:
    folder: str | None = given.get("fitted")
    if folder is not None and not given.get("enable_hidden_states") and not _has_scorer(given):
        raise SettingsError("--fitted: it is of no use without --enable-hidden-states")
    return folder


def _has_scorer(given: Mapping[str, Any]) -> bool:
    return bool(given.get("scorer", "none") != "none")


def _first(
    flag_value: str | None, environ: Mapping[str, str], variable: str, flag: str
) -> tuple[str | None, str]:
    """The value that wins and the name of where it came from."""
    if flag_value is not None:
        return flag_value, flag
    return environ.get(variable) or None, variable


def _positive(value: str | int, name: str, most: int | None = None) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise SettingsError(f"{name}: must be a whole number of at least 1, got {value!r}")
    if most is not None and number > most:
        raise SettingsError(f"{name}: must be at most {most}, got {value!r}")
    return number
