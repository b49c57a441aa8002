"""Sends broken requests to every route of a running server and reports what it takes badly.

    python -m tests.mutator http://127.0.0.1:8000 --count 10000

Each request is a right one, spoilt in one to three places: a value of the wrong type, a number of
the wrong size, half of a surrogate pair, a field that is missing, unknown or nested too deep, or
bytes that are no JSON. Whatever comes, the server has to answer: with a result, or with a 4xx whose
body says what is wrong. A 5xx, a connection that breaks, an answer that does not come, an error
inside a stream that has begun with a 200, and an error body of another shape are faults.

The same seed sends the same requests. With a small --max-model-len (256) the few that generate
until the model's end cost little.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

TEXT_PARTS = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hi."}]
USER = {"role": "user", "content": "Say hi."}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
FORCED_TOOL = {"type": "function", "function": {"name": "weather"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CONFIDENCE = {"mode": "per_token", "top_k": 5, "window": 16, "metrics": ["perplexity"]}
SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 1,
    "stop": ["x"],
    "stop_token_ids": [2],
    "logit_bias": {"5": 1.0},
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "bad_words": ["bad"],
    "allowed_token_ids": [5, 6],
    "priority": 0,
    "request_id": "mine",
    "cache_salt": "salt",
    "truncate_prompt_tokens": 8,
    "vllm_xargs": {"a": 1},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}

CHATS: list[dict[str, Any]] = [
    {"messages": [USER], "confidence": CONFIDENCE},
    {"messages": [{"role": "user", "content": TEXT_PARTS}], "logprobs": True, "top_logprobs": 2},
    {"messages": [USER], **SAMPLING},
    {"messages": [USER], "tools": [TOOL], "tool_choice": FORCED_TOOL},
    {"messages": [USER], "response_format": SCHEMA},
    {"messages": [USER], "structured_outputs": {"choice": ["a", "b"]}, "confidence": {}},
    {"messages": [USER], "stream": True, "stream_options": {"include_usage": True}, "n": 2},
    {"messages": [{"role": "system", "content": "Be brief."}, USER], "chat_template_kwargs": {}},
    {"messages": [{"role": "user", "content": [TEXT_PARTS[0], PICTURE]}]},
    {"messages": [USER], "logprobs": True, "stream": True, "confidence": {"mode": "stats"}},
]
COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "One, two,", "logprobs": 2, "confidence": CONFIDENCE},
    {"prompt": [5, 6, 7], **SAMPLING},
    {"prompt": ["a", "b"], "n": 2, "stream": True, "stream_options": {"include_usage": True}},
    {"prompt": [[5], [6]], "echo": True, "logprobs": 1, "prompt_logprobs": 1},
    {"prompt": "a", "structured_outputs": {"regex": "a+"}, "suffix": None, "confidence": {}},
]
SCORES: list[dict[str, Any]] = [
    {"prompt": "The capital of France is", "completion": " Paris", "confidence": CONFIDENCE},
    {"prompt": [5, 6], "completions": [[7], "x"], "mode": "per_token", "top_logprobs": 2},
    {"messages": [USER], "completion": "Hi.", "metrics": ["perplexity"], "priority": 0},
    {
        "items": [{"prompt": "a", "completion": "b"}, {"messages": [USER], "completions": ["c"]}],
        "request_id": "mine",
        "cache_salt": "salt",
    },
]
UNCERTAINTIES: list[dict[str, Any]] = [
    {"messages": [USER], "uncertainty": {"methods": ["fast"]}},
    {"prompt": "One, two,", "uncertainty": {"methods": ["sar"], "n_samples": 2}, "seed": 1},
    {
        "messages": [USER],
        "answer": "Hi.",
        "samples": ["Hi!", "Ho."],
        "uncertainty": {"methods": ["deg_mat"], "similarity": "jaccard", "return_samples": True},
        "stream": True,
    },
    {"messages": [USER], "uncertainty": {"temperature": 0.7}, "stream": True},
    {"messages": [USER], **SAMPLING, "temperature": None, "n": 1},
]
THOUGHTS: list[dict[str, Any]] = [
    {"messages": [USER], "think": {"budget": 4, "warmup": 2, "window": 2, "keep_top": 0.5}},
    {
        "messages": [USER],
        "think": {
            "budget": 3,
            "calibrate": "fixed",
            "below": 4.5,
            "vote": ["majority", "self_certainty_borda"],
            "consensus": {"rule": "beta", "threshold": 0.9, "min_finished": 1},
            "answer": {"extract": "regex", "pattern": "(a+)+$", "equal": "number"},
            "traces": "full",
        },
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    {
        "messages": [USER],
        "logprobs": True,
        "think": {
            "budget": 2,
            "calibrate": "none",
            "max_total_tokens": 3,
            "answer": {"extract": "choice", "choices": ["yes", "no"]},
        },
    },
    {
        "messages": [USER],
        "response_format": SCHEMA,
        "think": {
            "budget": 2,
            "calibrate": "none",
            "answer": {"extract": "json", "key": "a", "equal": "latex"},
        },
    },
]
BATCH = {"messages": [[USER], [USER]], "temperature": 0}

HIDDEN_STATES: list[dict[str, Any]] = [
    {"prompt": "Hi there", "layers": [0, -1], "pooling": "none"},
    {"prompt": [1, 2], "completion": " there", "tokens": "completion"},
    {"messages": [USER], "encoding_format": "float", "pooling": "last"},
    {"items": [{"prompt": "a", "completions": ["b", [3]]}], "encoding_format": "safetensors"},
]
SEEDS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": CHATS,
    "/v1/completions": COMPLETIONS,
    "/v1/score": SCORES,
    "/v1/hidden_states": HIDDEN_STATES,
    "/v1/uncertainty": UNCERTAINTIES,
    "/v1/think/chat/completions": THOUGHTS,
    "/v1/responses": [
        {"input": "Say hi.", "max_output_tokens": 2, "store": False},
        {"input": [{"role": "user", "content": "Hi"}], "tools": [], "stream": True},
    ],
    "/v1/messages": [
        {"model": None, "messages": [USER], "max_tokens": 2},
        {"model": None, "messages": [USER], "max_tokens": 2, "stream": True, "system": "Hi"},
    ],
    "/v1/messages/count_tokens": [{"model": None, "messages": [USER]}],
    "/v1/chat/completions/batch": [BATCH],
    "/v1/chat/completions/render": CHATS,
    "/v1/completions/render": COMPLETIONS,
    "/tokenize": [{"prompt": "Hi"}, {"messages": [USER], "add_generation_prompt": True}],
    "/detokenize": [{"tokens": [5, 6]}],
    "/invocations": [body | {"max_tokens": 2} for body in (*CHATS[:3], *COMPLETIONS[:2])],
    "/inference/v1/generate": [
        {"token_ids": [5, 6], "sampling_params": {"max_tokens": 2, "temperature": 0.5}}
    ],
    "/generative_scoring": [
        {"query": "Is it?", "items": ["a", "b"], "label_token_ids": [5, 6]},
    ],
}
LENGTHS = {"/v1/responses": "max_output_tokens", "/v1/messages": "max_tokens"} | dict.fromkeys(
    (
        *("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions"),
        *("/v1/uncertainty", "/v1/think/chat/completions"),
    ),
    "max_tokens",
)
"""By route, the field without which an answer may be as long as the model."""

OURS = (
    *("/v1/chat/completions", "/v1/completions"),
    *("/v1/score", "/v1/hidden_states", "/v1/uncertainty", "/v1/think/chat/completions"),
)
GETS = (
    "/v1/models/{}",
    "/v1/responses/{}",
    "/v1/uncertainty/methods?{}",
    "/v1/nothing/{}",
)

DEEP: Any = "deep"
for _ in range(60):
    DEEP = [DEEP]
HALF = "\ud800"
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    1.5,
    -0.5,
    2**31,
    2**63,
    -(2**63) - 1,
    10**30,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "2",
    HALF,
    f"a{HALF}b",
    "\0",
    "\ufffe😀\u200d",
    "long " * 700,
    [],
    [[]],
    [None],
    [1, "x"],
    [HALF],
    [[1, 2], [3]],
    [10**30],
    [-1],
    [{}],
    {},
    {"a": None},
    {"type": "object"},
    {"type": []},
    {"name": {}},
    {HALF: 1},
    {"": {"": [{}]}},
    DEEP,
]


OF_TYPE: dict[str, list[Any]] = {
    "integer": [0, 1, 2, -1, 5, 20, 100, 2**31 - 1, 2**63 - 1],
    "number": [0, 0.5, 1, 1.5, -1, 2.5, 1e-300, 1e308, -1e308],
    "string": ["", "x", "auto", "none", "smol", "é b", "\0", "a" * 300],
    "boolean": [True, False],
    "array": [[], [0], [1, 5], ["x"], ["a", "b"], [""], [49_152], [2**31], [[5, 6]], [{}]],
    "object": [
        {},
        {"x": 1},
        {"5": 1},
        {"5": 101},
        {"999999999": 1},
        {"include_usage": True},
        {"type": "text"},
        {"type": "json_object"},
        {"json": {"type": "object"}},
        {"json": "{"},
        {"choice": ["a", ""]},
        {"choice": []},
        {"regex": "a{1,3}"},
        {"regex": "("},
        {"grammar": "root ::= "},
    ],
    "null": [None],
}
"""Values that a field of a JSON type takes, and whose meaning may still be wrong."""

Fields = dict[str, list[Any]]
"""Values of the right types by field."""


@dataclass
class Case:
    """One request."""

    method: str
    path: str
    content: bytes | None
    headers: dict[str, str]


@dataclass
class Tally:
    """What came back.

    Attributes:
        faults: example requests by what was wrong with their answers.
    """

    statuses: dict[int, int] = field(default_factory=dict)
    faults: dict[str, list[Case]] = field(default_factory=dict)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values inside `value`, itself included."""
    yield path
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for key, part in parts:
        yield from places(part, (*path, key))


def spoil(body: Any, fields: Fields, rng: random.Random) -> Any:
    """One change of `body`, somewhere."""
    kind, value = rng.random(), copy.deepcopy(rng.choice(VALUES))
    names = list(fields)
    inner = [path for path in places(body) if path]
    if kind < 0.02 or not inner:
        return value
    if kind < 0.6 and isinstance(body, dict):  # A field that may or may not exist.
        if rng.random() < 0.05:
            body[rng.choice(["bogus", HALF, ""])] = value
        else:
            name = rng.choice(names)
            body[name] = rng.choice([value, *[copy.deepcopy(rng.choice(fields[name]))] * 3])
        return body
    *parents, last = rng.choice(inner)
    inside = body
    for key in parents:
        inside = inside[key]
    if kind < 0.85:
        inside[last] = value
    elif kind < 0.9:
        del inside[last]
    elif kind < 0.95:
        inside[last] = [inside[last]] * rng.choice([1, 2])
    else:
        inside[last] = {rng.choice([*names, "x"]): inside[last]}
    return body


def as_bytes(body: Any, rng: random.Random) -> bytes:
    """JSON, or now and then something that nearly is."""
    content = json.dumps(body, ensure_ascii=rng.random() < 0.9 or HALF in repr(body)).encode(
        errors="replace"
    )
    kind = rng.random()
    if kind < 0.01:
        return content[: rng.randrange(len(content))]
    if kind < 0.02:
        return content.replace(b'"', b"\xff", 1)
    if kind < 0.025:
        return b"[" * 20_000
    if kind < 0.03:
        return b'{"messages": ' + b"9" * 5000 + b"}"
    return content


def cases(count: int, seed: int, fields: dict[str, Fields]) -> Iterator[Case]:
    """The requests of a run.

    Args:
        fields: of each route, from the server's OpenAPI document.
    """
    rng = random.Random(seed)
    paths = [*SEEDS, *OURS * 2]
    for _ in range(count):
        if rng.random() < 0.02:
            name = rng.choice(["smol", "a/b", "%00", "%ff", "é", "..", "x" * 300, "{}"])
            path = rng.choice(GETS).format(name)
            yield Case(rng.choice(["GET", "POST", "PUT", "DELETE"]), path, None, {})
            continue
        path = rng.choice(paths)
        body: Any = copy.deepcopy(rng.choice(SEEDS[path]))
        length = LENGTHS.get(path)
        if length is not None:
            body[length] = 2
        known = fields.get(path) or dict.fromkeys(body, VALUES)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            body = spoil(body, known, rng)
        if length is not None and isinstance(body, dict) and body.get(length) is None:
            body[length] = 2
        elif path == "/inference/v1/generate" and isinstance(body, dict):
            params = body.get("sampling_params")
            if isinstance(params, dict):
                params.setdefault("max_tokens", 2)
        headers = {"content-type": "application/json"}
        if rng.random() < 0.01:
            headers |= rng.choice(
                [
                    {"content-type": "text/plain"},
                    {"content-encoding": "gzip"},
                    {"x-request-id": "<"},
                ]
            )
        yield Case("POST", path, as_bytes(body, rng), headers)


def known_fields(document: dict[str, Any]) -> dict[str, Fields]:
    """The fields of each route's body, from an OpenAPI document."""
    models = document["components"]["schemas"]

    def resolved(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "$ref" in schema:
            yield from resolved(models[schema["$ref"].rsplit("/", 1)[1]])
        elif "anyOf" in schema:
            for part in schema["anyOf"]:
                yield from resolved(part)
        else:
            yield schema

    def values(schema: dict[str, Any]) -> list[Any]:
        parts = list(resolved(schema))
        chosen = [value for part in parts for value in part.get("enum", ())]
        typed = [v for part in parts for v in OF_TYPE.get(part.get("type", ""), ())]
        return [*chosen, *typed] or VALUES

    return {
        path: {
            name: values(field)
            for model in resolved(media["schema"])
            for name, field in sorted(model.get("properties", {}).items())
        }
        for path, methods in document["paths"].items()
        if (body := methods.get("post", {}).get("requestBody"))
        and (media := body["content"].get("application/json"))
    }


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def fault_of_events(text: str) -> str | None:
    """What is wrong with a stream of server-sent events, or None."""
    for line in text.splitlines():
        data = line.removeprefix("data: ")
        if data != line and data != "[DONE]":
            event = json.loads(data, parse_constant=refuse_constant)
            error = event.get("error") or (event.get("response") or {}).get("error")
            if error:
                return f"an error in a stream: {error}"
    return None


def fault_of(case: Case, response: httpx.Response) -> str | None:
    """What is wrong with an answer, or None."""
    if response.status_code >= 500:
        return f"{response.status_code}: {response.text[:200]}"
    kind = response.headers.get("content-type", "")
    try:
        if kind.startswith("text/event-stream"):
            return fault_of_events(response.text)
        body = None
        if kind.startswith("application/json"):
            body = json.loads(response.text, parse_constant=refuse_constant)
    except ValueError as error:
        return f"{response.status_code}: unreadable: {error}"
    if response.status_code < 400:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not error.get("message"):
        return f"{response.status_code}: no error body: {response.text[:200]}"
    return None


async def send(client: httpx.AsyncClient, case: Case) -> tuple[int, str | None]:
    """Status (0: none) and fault of one request."""
    try:
        response = await client.request(
            case.method, case.path, content=case.content, headers=case.headers
        )
    except httpx.HTTPError as error:
        return 0, f"no answer: {type(error).__name__} {error}"
    return response.status_code, fault_of(case, response)


async def run(
    url: str, count: int, seed: int = 0, key: str = "none", concurrency: int = 16
) -> Tally:
    """Send `count` requests and gather the faults."""
    headers = {"Authorization": f"Bearer {key}"}
    tally = Tally()
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=300) as client:
        document = (await client.get("/openapi.json")).json()
        paths = document["paths"]
        todo = (
            case
            for case in cases(count, seed, known_fields(document))
            if case.method != "POST" or case.content is None or case.path in paths
        )

        async def work() -> None:
            for case in todo:
                status, fault = await send(client, case)
                tally.statuses[status] = tally.statuses.get(status, 0) + 1
                if fault is not None:
                    tally.faults.setdefault(f"{case.method} {case.path} {fault}", []).append(case)

        await asyncio.gather(*(work() for _ in range(concurrency)))
        try:
            health = (await client.get("/health")).status_code
        except httpx.HTTPError as error:
            health = 0
            tally.faults[f"the server is gone: {error!r}"] = []
        if health >= 400:
            tally.faults[f"/health answers {health}"] = []
    return tally


def report(tally: Tally) -> str:
    """Counts, and of each fault the shortest request that has it."""
    lines = [f"status {status}: {count}" for status, count in sorted(tally.statuses.items())]
    for fault, found in sorted(tally.faults.items(), key=lambda item: -len(item[1])):
        lines.append(f"\n{len(found)} x {fault}")
        if found:
            shortest = min(found, key=lambda case: len(case.content or b""))
            lines.append(f"    {(shortest.content or b'')[:400]!r} {shortest.headers}")
    return "\n".join(lines)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--concurrency", type=int, default=16)
    args = parser.parse_args()
    tally = asyncio.run(run(args.url, args.count, args.seed, args.api_key, args.concurrency))
    print(report(tally))
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
