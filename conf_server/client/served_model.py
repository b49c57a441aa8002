"""The models that a server has."""

from __future__ import annotations

from dataclasses import dataclass, field

from conf_server.client.server_error import ServerError, json_object, not_ours
from conf_server.client.tokens import Json

MODELS: str = "/v1/models"


@dataclass(frozen=True)
class ServedModel:
    """A model that a server serves.

    Attributes:
        name: the name that its answers bear.
        root: the folder or the name that its weights come from; None where it is not said.
        max_model_len: most tokens of a context with what is generated; None where it is not said.
        raw: what the server has sent.
    """

    name: str
    root: str | None
    max_model_len: int | None
    raw: Json = field(repr=False)


def served_model_of(body: bytes, name: str | None, url: str) -> ServedModel:
    """The model of this name in an answer of GET /v1/models, or the one that answers by default.

    Raises:
        ServerError: it is no list of models, or there is no such model.
    """
    match json_object(body):
        case {"data": [{"id": str()}, *_] as found}:
            for one in found:
                if name is None or one.get("id") == name:
                    return ServedModel(one["id"], one.get("root"), one.get("max_model_len"), one)
            error = {"message": f"The server has no model {name!r}.", "param": "model"}
            raise ServerError(error, None, url)
    raise not_ours("not a list of models", url)
