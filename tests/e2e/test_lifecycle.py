"""How servers start, stop and are reached; and the plugin in a stock one."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from vllm.version import __version__ as vllm_version

import conf_server
from conf_server.serving.routes import router, server_router
from conf_server.stats.metrics import METRICS
from tests.e2e import plugin_client
from tests.server import START_TIMEOUT_S, Server

pytestmark = pytest.mark.only_vllm("processes, sockets, reasoning, the plugin")

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count to one hundred."}],
    "confidence": {"mode": "stats"},
}
SCORE = {"prompt": "The capital of France is", "completion": " Paris"}
LONG_STREAM = CHAT | {"stream": True, "max_tokens": 120, "ignore_eos": True}


class Stream(threading.Thread):
    """Reads a streamed answer in the background."""

    def __init__(self, http: httpx.Client, body: dict[str, Any] = LONG_STREAM) -> None:
        super().__init__(daemon=True)
        self._http, self._body = http, body
        self.lines: list[str] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=self._body) as response:
                for line in response.iter_lines():
                    if line:
                        self.lines.append(line)
        except httpx.HTTPError as error:
            self.error = error

    def wait_for_tokens(self, count: int = 5) -> None:
        wait_for(lambda: len(self.lines) >= count or self.error is not None, 60)
        assert self.error is None

    @property
    def complete(self) -> bool:
        return self.error is None and self.lines[-1:] == ["data: [DONE]"]


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(built.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


class SocketServer(Server):
    """Listens on a Unix socket, with TLS on it."""

    def __init__(self, *args: Any, uds: Path, certificate: tuple[Path, Path], **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._uds, self._certificate = uds, certificate
        self.command += [
            f"--uds={uds}",
            f"--ssl-certfile={certificate[0]}",
            f"--ssl-keyfile={certificate[1]}",
        ]

    def http(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self._certificate[0]))
        transport = httpx.HTTPTransport(uds=str(self._uds), verify=context)
        return httpx.Client(base_url="https://localhost", transport=transport, timeout=120)

    def is_healthy(self) -> bool:
        with contextlib.suppress(httpx.TransportError), self.http() as http:
            return http.get("/health").status_code == 200
        return False


class NotifySocket:
    """Plays the service manager's end of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.messages: list[str] = []

    def read(self) -> list[str]:
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages += self._socket.recv(4096).decode().splitlines()
        return self.messages


def test_socket_tls_notify_reasoning_and_a_draining_stop(
    server: Server, model_path: Path, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """One start for everything that one process does on its own."""
    notify = NotifySocket(tmp_path / "notify")
    other = SocketServer(
        model_path,
        [
            "--max-model-len=1024",
            "--reasoning-parser=granite",
            "--confidence-mode=summary",
            "--token-statistics=topk",
            "--logprobs-encoder=vllm",
            "--max-num-queued-reqs=12",
            '--override-generation-config={"top_k": 2, "presence_penalty": 1.5}',
        ],
        tmp_path / "log",
        uds=tmp_path / "http",
        certificate=certificate,
        environ={
            "NOTIFY_SOCKET": str(notify.path),
            "WATCHDOG_USEC": "3000000",
            "VLLM_CONF_MODE": "empty",  # the flag wins
            "VLLM_CONF_TOPK": "3",
        },
    )
    with other:
        assert wait_for(lambda: "READY=1" in notify.read(), 30)
        assert wait_for(lambda: notify.read().count("WATCHDOG=1") >= 2, 30)
        with other.http() as http:
            check_defaults(http)
            check_vllms_encoder(http)
            check_hidden_reasoning(http)
            check_a_short_queue(http)
            check_a_clients_template_is_not_trusted(http)
            check_samples_are_the_models_own(http, server)
            stream = Stream(http)
            stream.start()
            stream.wait_for_tokens()
            other.terminate()
            assert wait_for(
                lambda: "STOPPING=1" in notify.read() or "STATUS=draining" in notify.read(), 10
            )
            stream.join(60)
            assert stream.complete
            assert "confidence_summary" in "".join(stream.lines)
        assert other.process.wait(30) == 0
    assert notify.read().count("READY=1") == 1
    assert "STOPPING=1" in notify.read()


def check_defaults(http: httpx.Client) -> None:
    body = {"prompt": "Hi", "max_tokens": 3, "logprobs": 5, "temperature": 0}
    logprobs = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == []
    shown = http.post("/v1/completions", json=body | {"confidence": {"mode": "per_token"}})
    for confidence, candidates in zip(
        logprobs["confidence"],
        shown.json()["choices"][0]["logprobs"]["top_logprobs"],
        strict=True,
    ):
        top_three = sorted(candidates.values(), reverse=True)[:3]
        assert confidence == pytest.approx(-sum(top_three) / 3, abs=1e-4)


def check_vllms_encoder(http: httpx.Client) -> None:
    """Entries have their members in the order of vLLM's models."""
    options = {"logprobs": True, "top_logprobs": 1, "confidence": {"mode": "per_token"}}
    answer = http.post("/v1/chat/completions", json=CHAT | options)
    (first, *_) = answer.json()["choices"][0]["logprobs"]["content"]
    assert list(first)[:3] == ["token", "logprob", "bytes"]


def check_hidden_reasoning(http: httpx.Client) -> None:
    body = CHAT | {"max_tokens": 6, "logprobs": True, "include_reasoning": False}
    choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["logprobs"] is None
    lines = http.post("/v1/chat/completions", json=body | {"stream": True}).text
    assert "confidence" not in lines
    shown = http.post("/v1/chat/completions", json=body | {"include_reasoning": True})
    choice = shown.json()["choices"][0]
    assert choice["logprobs"]["confidence_summary"]["mean_confidence"] > 0


def check_a_short_queue(http: httpx.Client) -> None:
    """More questions than may queue: they wait their turn, and are not refused half way."""
    body = {
        "messages": CHAT["messages"],
        "answer": "One, two, three.",
        "samples": ["One and two.", "1 2 3", "I cannot count."],
        "uncertainty": {"methods": ["deg_mat", "token_sar"], "similarity": "self_nli"},
    }
    answer = http.post("/v1/uncertainty", json=body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["estimates"]) == {"deg_mat", "token_sar"}


def check_a_clients_template_is_not_trusted(http: httpx.Client) -> None:
    body = {"messages": CHAT["messages"], "chat_template": "{{ messages }}", "completion": "Hi"}
    refused = http.post("/v1/score", json=body)
    assert refused.status_code == 400
    assert "--trust-request-chat-template" in refused.json()["error"]["message"]


def check_samples_are_the_models_own(http: httpx.Client, without_config: Server) -> None:
    """Whatever a generation config says."""
    options = {"methods": ["lexical_similarity_rouge1", "p_true_empirical"], "n_samples": 8}
    body = {
        "messages": CHAT["messages"],
        "max_tokens": 12,
        "seed": 3,
        "uncertainty": options | {"return_samples": True},
    }
    here = http.post("/v1/uncertainty", json=body).json()
    there = without_config.post("/v1/uncertainty", body).json()
    assert [s["text"] for s in here["samples"]] == [s["text"] for s in there["samples"]]
    verdicts = [answer["estimates"]["p_true_empirical"]["value"] for answer in (here, there)]
    assert verdicts[0] == verdicts[1]


@pytest.fixture(scope="module")
def with_plugin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the launcher of PETS, where our plugin is installed."""
    plugin = Path(__file__).parents[2] / "patches/vllm_confidence_plugin"
    # Files that setuptools leaves beside what it builds are not to lie in the checkout.
    copy = shutil.copytree(plugin, tmp_path_factory.mktemp("plugin") / "source")
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(copy)], check=True)
    path = os.pathsep.join([str(site), str(plugin.parents[1])])
    return {**plugin_client.LAUNCHER, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def two_processes(
    model_path: Path, with_plugin: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Two API processes before two data-parallel engines, as the launcher of PETS starts them."""
    log = tmp_path_factory.mktemp("two") / "log"
    flags = ["--api-server-count=2", "--data-parallel-size=2", "--max-model-len=1024"]
    # One core an engine: left to itself, vLLM binds each to all there are.
    environ = {"VLLM_CPU_OMP_THREADS_BIND": "0|1", **with_plugin}
    with Server(model_path, flags, log, environ=environ) as server:
        yield server


def test_the_plugins_environment_is_honoured_by_conf_server(two_processes: Server) -> None:
    """And the plugin, where it is still installed, changes nothing."""
    check_a_client_of_the_plugin(two_processes)


def check_a_client_of_the_plugin(server: Server) -> None:
    """It gets its summaries, and nothing of single tokens, which `VLLM_CONF_MODE` leaves out."""
    with server.client() as client:
        assert plugin_client.asked_with_openai(client, 2)
    assert plugin_client.asked_plainly(server.url, server.api_key, 2)
    body = CHAT | {"max_tokens": 3, "logprobs": True, "top_logprobs": 20}
    del body["confidence"]
    told = server.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]
    assert told["content"] == []
    assert tuple(told["confidence_summary"]) == plugin_client.KEYS


def test_two_api_processes_and_two_engines(two_processes: Server) -> None:
    server = two_processes
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: server.post("/v1/score", SCORE), range(16)))
        chat = CHAT | {"max_tokens": 4}
        chats = list(pool.map(lambda _: server.post("/v1/chat/completions", chat), range(16)))
    assert {response.status_code for response in [*answers, *chats]} == {200}
    numbers = [response.json()["data"][0]["logprob"] for response in answers]
    assert max(numbers) - min(numbers) < 1e-4
    for response in chats:
        summary = response.json()["choices"][0]["logprobs"]["confidence_summary"]
        assert summary["mean_confidence"] > 0
    text = server.log.read_text(errors="replace")
    assert "ApiServer_0" in text
    assert "ApiServer_1" in text


def test_both_processes_count_and_say_their_version(two_processes: Server) -> None:
    check_counted(two_processes)
    names = {"version": conf_server.__version__, "vllm_version": vllm_version}
    (series,) = series_of(two_processes, "conf_server_build_info")
    assert series.labels == names
    assert series.value == 1
    assert httpx.get(f"{two_processes.url}/version").json() == {
        "version": vllm_version,
        "conf_server_version": conf_server.__version__,
    }


def check_counted(server: Server) -> None:
    """As many requests of each route as were sent are in the HTTP metrics."""

    def counts() -> dict[str, float]:
        return {
            series.labels["handler"]: series.value
            for series in series_of(server, "http_requests_total")
            if series.labels["status"] == "2xx"
        }

    before = counts()
    sent = {"/v1/score": 6, "/v1/chat/completions": 4, "/tokenize": 2}
    bodies = {
        "/v1/score": SCORE,
        "/v1/chat/completions": CHAT | {"max_tokens": 1},
        "/tokenize": {"prompt": "Hi"},
    }
    for path, count in sent.items():
        for _ in range(count):  # each on a connection of its own, so that all processes get some
            assert server.post(path, bodies[path]).status_code == 200
    after = counts()
    assert {path: after[path] - before.get(path, 0) for path in sent} == sent
    measured = {
        series.labels["handler"]: series.value
        for series in series_of(server, "http_request_duration_seconds_count")
    }
    assert all(measured[path] >= after[path] for path in sent)


def series_of(server: Server, name: str) -> list[Sample]:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    families = text_string_to_metric_families(text)
    return [sample for family in families for sample in family.samples if sample.name == name]


def test_a_second_signal_is_immediate_with_several_processes(two_processes: Server) -> None:
    stop_twice_in_mid_stream(two_processes)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_flag_that_turns_out_wrong_is_named(
    model_path: Path, tmp_path: Path, processes: int
) -> None:
    flags = [
        "--max-model-len=1024",
        f"--api-server-count={processes}",
        f"--embedding-model={tmp_path}",
    ]
    server = Server(model_path, flags, tmp_path / "log").start()
    try:
        assert server.process.wait(START_TIMEOUT_S) == 2
    finally:
        server.kill()
    assert f"conf-server: error: --embedding-model {tmp_path}" in server.log.read_text()


def test_three_tensor_parallel_workers_give_the_same_numbers(
    server: Server, model_path: Path, tmp_path: Path
) -> None:
    """Three: the model's nine heads do not go into two."""
    flags = ["--tensor-parallel-size=3", "--max-model-len=1024"]
    binding = {"VLLM_CPU_OMP_THREADS_BIND": "0|1|0"}
    chat = CHAT | {
        "max_tokens": 8,
        "temperature": 0,
        "confidence": {"mode": "stats", "metrics": METRICS},
    }
    score = {"prompt": list(range(3000, 3300)), "completions": [[9, 10, 11], [12, 13]]}
    with Server(model_path, flags, tmp_path / "log", environ=binding) as parallel:
        for path, body in (("/v1/chat/completions", chat), ("/v1/score", score)):
            alone, together = server.post(path, body), parallel.post(path, body)
            assert together.status_code == 200, together.text
            compare(numbers_of(alone.json()), numbers_of(together.json()))


def stop_twice_in_mid_stream(server: Server) -> None:
    with server.http() as http:
        # Eight answers: one alone may be complete before a busy machine has taken both signals.
        stream = Stream(http, LONG_STREAM | {"max_tokens": 900, "n": 8})
        stream.start()
        stream.wait_for_tokens(20)
        server.terminate()
        assert wait_for(lambda: ": draining " in server.log.read_text(errors="replace"), 30)
        assert server.process.poll() is None
        server.terminate()
        server.process.wait(20)  # less than a drain may take
        stream.join(20)
        assert not stream.complete


def test_a_second_signal_is_immediate_in_one_process(model_path: Path, tmp_path: Path) -> None:
    with Server(model_path, ["--max-model-len=1024"], tmp_path / "log") as server:
        stop_twice_in_mid_stream(server)


def test_a_dead_engine_is_a_503_and_a_failed_exit(model_path: Path, tmp_path: Path) -> None:
    with Server(model_path, ["--max-model-len=1024"], tmp_path / "log") as server:
        (engine,) = [
            child
            for child in psutil.Process(server.process.pid).children()
            if "EngineCore" in " ".join(child.cmdline())
        ]
        engine.kill()
        statuses: list[int] = []

        def is_gone() -> bool:
            with contextlib.suppress(httpx.TransportError):
                statuses.append(server.post("/v1/score", SCORE).status_code)
            return server.process.poll() is not None

        assert wait_for(is_gone, 30)
        assert server.process.wait() == 1
        assert set(statuses) <= {503}


def test_the_plugin_in_a_stock_server_gives_the_same_numbers(
    server: Server, model_path: Path, with_plugin: dict[str, str], tmp_path: Path
) -> None:
    chat = CHAT | {"max_tokens": 12, "temperature": 0, "confidence": {"mode": "summary"}}
    score = {
        "metrics": ["perplexity", "maximum_sequence_probability"],  # exact from a top k too
        "items": [
            {"prompt": "The capital of France is", "completion": " Paris, of course."},
            {"prompt": list(range(3000, 3600)), "completions": [[9, 10, 11], [12, 13]]},
        ],
    }
    uncertainty = {
        "messages": CHAT["messages"],
        "answer": "One, two, three, and so on.",
        "samples": ["One, two and three.", "1 2 3"],
        "uncertainty": {
            "methods": ["perplexity", "p_true", "token_sar", "deg_mat", "cocoa_msp"],
            "similarity": "self_nli",
        },
    }
    stock = Server(
        model_path,
        ["--max-model-len=1024", "--dtype=float32", "--enforce-eager", "--api-key=secret"],
        tmp_path / "log",
        api_key="secret",
        environ=with_plugin,
        module=("vllm.entrypoints.openai.api_server",),
    )
    with stock:
        for path, body in (
            ("/v1/chat/completions", chat),
            ("/v1/score", score),
            ("/v1/uncertainty", uncertainty),
        ):
            ours, theirs = server.post(path, body), stock.post(path, body)
            assert theirs.status_code == 200, theirs.text
            compare(numbers_of(ours.json()), numbers_of(theirs.json()))
        check_unavailable(stock, uncertainty)
        check_counted(stock)
        check_counted(server)
        check_guarded(stock)
        check_errors(stock)
        with stock.http() as http:
            stream = Stream(http, chat | {"stream": True})
            stream.start()
            stream.join(60)
            assert stream.complete
            assert "confidence_summary" in "".join(stream.lines)
        check_responses(server, stock)
        check_a_client_of_the_plugin(stock)
        check_the_sampled_token_counts(server, stock)


def check_responses(server: Server, stock: Server) -> None:
    """Whole and streamed, where vLLM makes an object of each candidate."""
    confidence: dict[str, Any] = {"confidence": {"mode": "per_token"}}
    parts = []
    for each in (server, stock):
        (model, *_) = each.client().models.list()
        request: dict[str, Any] = {"model": model.id, "input": "What is two plus two?"}
        request |= {"temperature": 0, "max_output_tokens": 12, "top_logprobs": 2}
        create = each.client().responses.create
        whole: Any = create(**request, extra_body=confidence)
        *_, last = create(**request, extra_body=confidence, stream=True)
        parts += [answer.output[0].content[0].model_dump() for answer in (whole, last.response)]
    assert parts[0]["confidence_summary"]["mean_confidence"] > 0
    for part in parts[1:]:
        compare(parts[0], part)


def check_the_sampled_token_counts(server: Server, stock: Server) -> None:
    chat = CHAT | {"max_tokens": 12, "temperature": 0}
    chat["confidence"] = {"mode": "per_token", "include_sampled": True}
    answers = [each.post("/v1/chat/completions", chat).json() for each in (server, stock)]
    compare(*map(numbers_of, answers))


def check_guarded(server: Server) -> None:
    """All of our routes ask for the key."""
    for route in (*router.routes, *server_router.routes):
        assert isinstance(route, APIRoute)
        for method in route.methods if route.path.startswith("/v1/") else ():
            answer = httpx.request(method, server.url + route.path, json={})
            assert answer.status_code == 401, (method, route.path)


def check_errors(server: Server) -> None:
    with server.http() as http:
        for answer in (http.get("/v1/score"), http.get("/v1/nothing")):
            assert answer.status_code in (404, 405)
            assert answer.json()["error"]["code"] == answer.status_code


def numbers_of(answer: dict[str, Any]) -> Any:
    if "choices" in answer:
        return answer["choices"][0]["logprobs"]
    return answer["data" if "data" in answer else "estimates"]


def check_unavailable(server: Server, body: dict[str, Any]) -> None:
    """A server without statistics of the whole vocabulary says which methods want them."""
    options = {"methods": ["mean_token_entropy"]}
    refused = server.post("/v1/uncertainty", body | {"uncertainty": options})
    assert refused.status_code == 400
    assert "needs exact token statistics" in refused.json()["error"]["message"]
    options = {"methods": ["fast"], "similarity": "jaccard"}
    answer = server.post("/v1/uncertainty", body | {"uncertainty": options}).json()
    assert set(answer["estimates"]) == {"perplexity", "maximum_sequence_probability"}
    assert "mean_token_entropy" in answer["unavailable"]


def in_nats(perplexity: Any) -> Any:
    """The logarithm of a perplexity, which exp would have magnified the rounding of."""
    if isinstance(perplexity, dict):
        return perplexity | {"value": in_nats(perplexity["value"])}
    return perplexity and math.log(perplexity)


def compare(ours: Any, theirs: Any) -> None:
    """The same structure, the same numbers up to rounding."""
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            pair = ours[key], theirs[key]
            if key == "perplexity":
                pair = in_nats(ours[key]), in_nats(theirs[key])
            compare(*pair)
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            compare(*pair)
    elif isinstance(ours, float):
        assert theirs == pytest.approx(ours, abs=1e-3, rel=1e-4)
    else:
        assert ours == theirs
