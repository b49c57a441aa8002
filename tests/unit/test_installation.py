"""What is said of an environment in which something is missing or does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import pytest

from conf_server import installation


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages hide those of this environment."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def add_package(folder: Path, name: str, version: str, origin: object = None) -> Distribution:
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    return Distribution.at(metadata)


def test_the_wheel_that_was_installed_is_named_again(tmp_path: Path) -> None:
    wheel = tmp_path / "of mine" / "conf_server-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    origin = {"url": wheel.as_uri(), "archive_info": {}}
    installed = add_package(tmp_path, "conf-server", "0.1.0", origin)
    assert installation.requirement(installed, "cpu") == f"{wheel}[cpu]"


@pytest.mark.parametrize("origin", [None, {"url": "file:///nowhere/conf_server.whl"}])
def test_a_wheel_that_is_gone_is_asked_of_an_index(tmp_path: Path, origin: object) -> None:
    installed = add_package(tmp_path, "conf-server", "0.1.0", origin)
    assert installation.requirement(installed, "cuda") == "conf-server[cuda]"


def test_the_command_is_that_of_this_environment() -> None:
    command = installation.installing("transformers")
    assert command.startswith(f"{sys.executable} -m pip install ")
    assert "[transformers]'" in command


def test_companions_built_for_cuda_beside_a_torch_for_cpus(site_packages: Path) -> None:
    add_package(site_packages, "torch", "2.13.0+cpu")
    add_package(site_packages, "torchvision", "0.28.0")
    add_package(site_packages, "torchaudio", "2.11.0+cpu")
    problem = installation.broken_torch_companions()
    assert problem is not None
    assert problem.startswith("torchvision: built for CUDA")
    assert problem.endswith(f": {sys.executable} -m pip uninstall -y torchvision")


@pytest.mark.parametrize("torch", ["2.14.0", "2.14.0+cu130"])
def test_companions_of_a_torch_for_cuda_fit(site_packages: Path, torch: str) -> None:
    add_package(site_packages, "torch", torch)
    add_package(site_packages, "torchvision", "0.29.0")
    assert installation.broken_torch_companions() is None


def without_pip(name: str) -> Distribution:
    if name == "pip":
        raise PackageNotFoundError(name)
    return Distribution.from_name(name)


def test_an_environment_without_pip_has_uv_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uv = tmp_path / "uv"
    uv.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(installation, "distribution", without_pip)
    assert installation.installing("cpu").startswith(f"uv pip install --python {sys.executable} ")


def test_a_folder_that_vllm_has_left_behind_is_no_vllm(site_packages: Path) -> None:
    """A package that was removed can leave a folder of caches, which Python would import."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from conf_server import installation as i; print(i.has_vllm(), i.versions())"
    )
    (site_packages / "vllm" / "cache").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(site_packages)],
        capture_output=True,
        text=True,
        cwd=Path(installation.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False conf-server ")
    assert "(no vLLM, " in done.stdout


def test_looking_around_leaves_setuptools_as_it_is() -> None:
    """Which watches out for imports of pip, and has torch stumble over what it does then."""
    code = (
        "from conf_server import installation as i; i.engine_problem(); i.installing('cpu'); "
        "import setuptools"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
