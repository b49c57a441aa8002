"""vLLM's routes that stay vLLM's, but for mistakes that they would overlook or stumble over."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from copy import copy
from functools import wraps
from typing import Any, Final, get_type_hints

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError, create_model, model_validator
from starlette.exceptions import HTTPException

from conf_server.backends.served_bodies import CheckedBody
from conf_server.refusal import RefusalError
from conf_server.serving.requests import (
    ConfidenceChatCompletionRequest,
    ConfidenceCompletionRequest,
)

_INVOCATIONS: Final = "/invocations"


class WithoutConfidence(CheckedBody):
    """A mixin for requests whose answers carry no confidence: vLLM would ignore the field."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_confidence(cls, data: Any) -> Any:
        if isinstance(data, dict) and "confidence" in data:
            raise RefusalError(
                "confidence",
                "not available on this route; POST /v1/chat/completions, POST /v1/completions and "
                "POST /v1/responses carry it.",
            )
        return data


MIXINS: Final[dict[str, type[CheckedBody]]] = dict.fromkeys(
    (
        "/v1/messages",
        "/v1/chat/completions/batch",
        "/inference/v1/generate",
        "/generative_scoring",
    ),
    WithoutConfidence,
)
"""What comes before vLLM's request model; elsewhere it is `CheckedBody`."""


def stricter_routes(app: FastAPI) -> APIRouter:
    """Routes to install in place of those of `app` that have a body and are vLLM's."""
    router = APIRouter()
    for route in app.router.routes:
        if not isinstance(route, APIRoute) or "POST" not in route.methods:
            continue
        body = get_type_hints(route.endpoint).get("request")
        if route.path == _INVOCATIONS:
            _add(router, route, _checked_first(route.endpoint))
        elif isinstance(body, type) and issubclass(body, BaseModel):
            mixin = MIXINS.get(route.path, CheckedBody)
            _add(router, route, _with_mixin(route.endpoint, mixin, body))
    return router


def _add(router: APIRouter, route: APIRoute, endpoint: Callable[..., Any]) -> None:
    """`route` with another endpoint, and all else as it is."""
    changed, one = copy(route), APIRouter()
    changed.endpoint = endpoint
    one.routes.append(changed)
    router.include_router(one)


def _with_mixin(
    endpoint: Callable[..., Awaitable[Any]], mixin: type[BaseModel], body: type[BaseModel]
) -> Callable[..., Any]:
    """An endpoint whose parameter `request` is a `body` with `mixin` before it."""
    stricter = create_model(body.__name__, __base__=(mixin, body))

    @wraps(endpoint)
    async def with_stricter_body(*args: Any, **kwargs: Any) -> Any:
        return await endpoint(*args, **kwargs)

    signature = inspect.signature(endpoint)
    parameters = dict(signature.parameters)
    parameters["request"] = parameters["request"].replace(annotation=stricter)
    with_stricter_body.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(parameters.values())
    )
    return with_stricter_body


def _checked_first(endpoint: Callable[[Request], Awaitable[Any]]) -> Callable[..., Any]:
    """SageMaker's endpoint tries vLLM's request models on the body, one after the other."""

    @wraps(endpoint)
    async def invocations(raw_request: Request) -> Any:
        try:
            body = await raw_request.json()
        except Exception as error:
            raise HTTPException(400, "There was an error parsing the body") from error
        for model in (ConfidenceChatCompletionRequest, ConfidenceCompletionRequest):
            try:
                model.model_validate(body)
            except ValidationError:
                continue  # It may be a request of another kind.
            break
        return await endpoint(raw_request)

    return invocations
