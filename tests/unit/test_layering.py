"""Who may import whom: arrows run down only.

small_server -> serving -> gathering -> judges, backends -> engine -> stats;
gathering -> thinking -> uncertainty -> stats.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = {
    "stats": (),
    "uncertainty": (),
    "thinking": (
        *("conf_server.uncertainty", "conf_server.refusal", "conf_server.server_process"),
        *("re2", "math_verify"),
    ),
}
"""Rooms of numbers and texts, and what they may import beside numpy: re2 and math_verify are
imported where they are needed, the latter in a process of its own."""


def modules(folder: str = "") -> Iterator[Path]:
    yield from sorted((ROOT / "conf_server" / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str, package: str = "") -> set[str]:
    """Full names of the modules, or of the names in them, that a source imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = [*parents, node.module] if node.level else [node.module]
            found |= {".".join(filter(None, [*base, alias.name])) for alias in node.names}
    return found


def imports_of(path: Path) -> set[str]:
    return imports(path.read_text(), dotted(path.parent))


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(paths: Iterator[Path], *forbidden: str) -> list[str]:
    return [
        f"{dotted(path)} imports {name}"
        for path in paths
        for name in sorted(imports_of(path))
        if is_in(name, *forbidden)
    ]


def test_the_scan_sees_every_form_of_import() -> None:
    source = """
import vllm.v1.utils as utils
def late():
    from vllm.v1 import engine
    from . import trace
    from ..engine.decoding import TokenDecoder
"""
    assert imports(source, "conf_server.stats") == {
        "vllm.v1.utils",
        "vllm.v1.engine",
        "conf_server.stats.trace",
        "conf_server.engine.decoding.TokenDecoder",
    }


@pytest.mark.parametrize("folder", PURE)
def test_the_numbers_need_numpy_alone(folder: str) -> None:
    """And safetensors, which has arrays of numpy's, where they are kept in files."""
    own = ("conf_server.stats", f"conf_server.{folder}", *PURE[folder])
    allowed = (*sys.stdlib_module_names, "numpy", "safetensors", *own)
    for path in modules(folder):
        assert not [name for name in imports_of(path) if not is_in(name, *allowed)], path


def test_importing_the_numbers_loads_no_server() -> None:
    names = [dotted(path) for folder in PURE for path in modules(folder)]
    assert "conf_server.stats.confidence" in names
    names += ["conf_server.gathering.gather", "conf_server.backends.dummy"]
    loaded = loaded_with(*names)
    assert not {"vllm", "torch", "transformers", "fastapi", "pydantic"} & loaded
    assert not {"sympy", "math_verify", "re2"} & loaded


def test_the_backend_of_transformers_loads_no_engine_and_no_server() -> None:
    loaded = loaded_with("conf_server.backends.transformers")
    assert {"torch", "transformers"} <= loaded
    assert not {"vllm", "fastapi", "starlette", "pydantic"} & loaded


def test_a_server_s_side_of_the_scorer_runs_no_model() -> None:
    names = ("conf_server.scorer.supervisor", "conf_server.scorer.scorer_backend")
    assert not {"vllm", "torch", "transformers"} & loaded_with(*names)


def loaded_with(*names: str) -> set[str]:
    """Modules that a new process has loaded after it has imported these."""
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


ROOMS = {
    "stats": set[str](),
    "uncertainty": {"stats"},
    "thinking": {"uncertainty", "stats"},
    "engine": {"stats"},
    "backends": {"engine", "stats"},
    "scorer": {"backends", "stats"},
    "judges": {"backends", "uncertainty", "stats"},
    "heads": {"backends", "uncertainty", "stats"},
    "gathering": {"thinking", "judges", "heads", "backends", "uncertainty", "stats"},
    "serving": {
        *("scorer", "gathering", "judges", "heads", "backends", "uncertainty", "engine", "stats"),
        "thinking",
    },
    "small_server": {
        *("serving", "gathering", "judges", "heads", "backends", "uncertainty", "engine", "stats"),
        *("draining", "flags", "systemd", "thinking"),
        *("before_start", "commands", "installation", "vllm_flags"),
    },
    "report": {"thinking", "uncertainty", "stats", "command_parser"},
    "allocate": {"batch", "report", "thinking", "uncertainty", "stats", "command_parser"},
    "client": set(),
    "batch": {
        *("client", "report", "thinking", "uncertainty", "stats"),
        *("command_parser", "early_refusal"),
    },
    "integrations": {"client"},
    "fit": {"batch", "command_parser", "heads", "report", "uncertainty", "stats"},
}
"""Each room, and those that it may look into."""
COMMON = {
    *("settings", "refusal", "concurrency", "server_process", "signals", "standard_output"),
    "nearest",
    "terminal",
}
"""Modules that every room may use; they use none."""
SEAM = ("served.py", "served_bodies.py", "served_rows.py", "served_tokens.py")
"""Modules of `backends` that are made of vLLM's handlers."""
VLLM_SEAM = {
    *("answer_estimates", "app", "chat", "completion", "confident_handler", "deltas"),
    "early_stops",
    *("requests", "responses", "response_trace", "responses_handler", "responses_request"),
    "routes",
    *("think_chat", "think_handler", "think_request"),
    *("stock_routes", "version", "vllm_host"),
}
"""Modules of `serving` that are made of vLLM's handlers and routes; all others need a `Backend`."""


def without_vllm() -> list[Path]:
    ours = [path for path in modules("serving") if path.stem not in VLLM_SEAM]
    return [*ours, *modules("small_server")]


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_run_down_only(room: str) -> None:
    allowed = {room, "__version__"} | ROOMS[room] | COMMON
    for path in modules(room):
        for name in imports_of(path):
            if is_in(name, "conf_server"):
                assert name.split(".")[1] in allowed, f"{dotted(path)} imports {name}"


@pytest.mark.parametrize("name", sorted(COMMON))
def test_what_all_rooms_use_uses_none_of_them(name: str) -> None:
    path = ROOT / "conf_server" / f"{name}.py"
    assert not [found for found in imports_of(path) if is_in(found, "conf_server")]


def test_evidence_is_gathered_without_http_and_without_vllm() -> None:
    rooms = [
        *modules("gathering"),
        *modules("judges"),
        *modules("heads"),
        *modules("scorer"),
        *(path for path in modules("backends") if path.name not in SEAM),
    ]
    assert not offences(iter(rooms), "vllm", "fastapi", "starlette", "pydantic")


def test_models_are_run_by_the_backend_of_transformers_alone() -> None:
    """And by the judges and heads, which have small models of their own, in `loading`."""
    rooms = (
        *modules("gathering"),
        *modules("scorer"),
        *(path for path in modules("backends") if not path.stem.startswith("transformers")),
    )
    assert not offences(iter(rooms), "torch", "transformers")


def test_our_own_handlers_do_not_know_vllm() -> None:
    seam = [f"conf_server.serving.{name}" for name in sorted(VLLM_SEAM)]
    paths = without_vllm()
    assert not offences(iter(paths), "vllm", "conf_server.backends.served", *seam)


def test_importing_our_own_handlers_loads_no_vllm() -> None:
    names = [dotted(path) for path in without_vllm()]
    assert {"conf_server.serving.own_routes", "conf_server.small_server.small_app"} <= set(names)
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "vllm" not in loaded


def test_the_client_loads_nothing_that_a_bare_install_has_not() -> None:
    loaded = loaded_with("conf_server.client")
    absent = {"vllm", "torch", "transformers", "pydantic", "fastapi", "pandas", "aiohttp"}
    assert "httpx" in loaded
    assert not absent & loaded


def test_there_is_one_http_client() -> None:
    others = [path for path in modules() if path.parent.name != "client"]
    assert not offences(iter(others), "httpx", "httpcore", "aiohttp", "requests")


def test_http_bodies_stay_in_serving() -> None:
    above = ("serving", "small_server")
    below = [path for room in ROOMS if room not in above for path in modules(room)]
    assert not offences(iter(below), "fastapi")


def test_private_engine_classes_stay_in_engine_and_launcher() -> None:
    home = ROOT / "conf_server"
    allowed = {home / "launcher.py", *modules("engine")}
    assert not offences((path for path in modules() if path not in allowed), "vllm.v1")


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    long = {dotted(path) for path in modules() if len(path.read_text().splitlines()) > 400}
    assert not long
