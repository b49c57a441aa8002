"""Request models of vLLM's, whose mistakes are refused in words where vLLM stumbles over them."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, TypeAdapter, ValidationError, model_validator

from conf_server.backends.encodable import refuse_unencodable
from conf_server.refusal import RefusalError

_STUMBLES = (
    AttributeError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RecursionError,
)

MOST_ERRORS: Final = 1000
"""Mistakes in one body that are told apart."""
FIRST: Final = 10
"""Elements of a list among which the first of more is looked for."""


class CheckedBody(BaseModel):
    """A mixin for request models; it comes before vLLM's class.

    Several validators of vLLM's look at a body before its types are checked, and fail with an
    `AttributeError` or the like where a type is wrong. That would be a 500. Validation has no
    other cause of such errors than the body, so here it becomes a refusal. Text that UTF-8 cannot
    hold is refused as well.
    """

    null_is_absent: ClassVar[frozenset[str]] = frozenset({"request_id"})
    """Fields that vLLM knows how to do without, but not with a null in them."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_words(cls, data: Any, handler: Any) -> Any:
        if isinstance(data, dict):
            for name, value in data.items():
                refuse_unencodable(str(name), "body")
                refuse_unencodable(value, name)
            absent = {name for name in cls.null_is_absent if data.get(name, "") is None}
            if absent:
                data = {name: value for name, value in data.items() if name not in absent}
        try:
            return handler(data)
        except _STUMBLES as error:
            raise _explained(cls, data, error) from error
        except ValidationError as error:
            if error.error_count() > MOST_ERRORS:
                raise _first_of_many(handler, data, error.error_count()) from None
            raise


def _first_of_many(handler: Any, data: Any, count: int) -> RefusalError:
    """A refusal that names the first of very many mistakes.

    FastAPI would make an object of each, which takes seconds for a list of a hundred thousand
    wrong elements. The first one is found among the first elements of each list.
    """
    given = data if isinstance(data, dict) else {}
    cut = {name: v[:FIRST] if isinstance(v, list) else v for name, v in given.items()}
    try:
        handler(cut)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"][:2] if part in cut or part == 0)
        return RefusalError(field or None, f"{first['msg']}, and {count - 1} mistakes more.")
    return RefusalError(None, f"The request has {count} mistakes.")


def _explained(model: type[BaseModel], data: Any, error: Exception) -> RefusalError:
    """A refusal that names the first field of a wrong type, for the error of a validator."""
    given = data if isinstance(data, dict) else {}
    for name in model.model_fields:
        if name not in given:
            continue
        try:
            _adapter(model, name).validate_python(given[name])
        except ValidationError as wrong:
            first = wrong.errors(include_url=False, include_input=False)[0]
            return RefusalError(name, f"{first['msg']}.")
        except _STUMBLES:
            return RefusalError(name, "it is not of the right type.")
    return RefusalError(None, f"The request cannot be read: {type(error).__name__}: {error}")


@lru_cache(maxsize=256)
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    info = model.model_fields[name]
    annotation: Any = info.annotation
    metadata = tuple(info.metadata)
    return TypeAdapter(Annotated[(annotation, *metadata)] if metadata else annotation)
