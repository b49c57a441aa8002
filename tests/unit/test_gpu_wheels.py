"""benchmarks.gpu: wheels made slim, what is left out of them, and how they are installed."""

from __future__ import annotations

import argparse
import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import GpuError, prepare
from benchmarks.gpu.install import check_python, install, make_venv, unmet
from benchmarks.gpu.parts import split
from benchmarks.gpu.prepare import canonical, leave_out, platforms
from benchmarks.gpu.slim import slim
from benchmarks.gpu.workspace import Workspace

CONTENT = {
    "made_up/__init__.py": b"answer = 42\n",
    "made_up/big.so": b"\x7fELF" + bytes(5000),
    "made_up/small, odd name.so": b"\x7fELF",
    "made_up-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n",
    "made_up-1.0.dist-info/WHEEL": (
        b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ),
}
RECORD = "made_up-1.0.dist-info/RECORD"


def line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    quoted = f'"{name}"' if "," in name else name
    return f"{quoted},sha256={digest},{len(content)}\n"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "made_up-1.0-py3-none-any.whl"
    record = "".join(line(name, content) for name, content in CONTENT.items()) + f"{RECORD},,\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in CONTENT.items():
            archive.writestr(name, content)
        archive.writestr(RECORD, record)
    return path


@pytest.fixture
def slimmed(wheel: Path) -> Path:
    out = wheel.parent / "slim"
    out.mkdir()
    assert slim(wheel, out, {"*/big*.so": "too big"}) == {"made_up/big.so": "too big"}
    return out / wheel.name


def test_all_else_is_kept(slimmed: Path) -> None:
    with zipfile.ZipFile(slimmed) as archive:
        assert archive.testzip() is None
        kept = {name: archive.read(name) for name in archive.namelist()}
    record = kept.pop(RECORD).decode()
    expected = {name: content for name, content in CONTENT.items() if name != "made_up/big.so"}
    assert kept == expected
    lines = [line(name, content) for name, content in expected.items()]
    assert record == "".join(lines) + f"{RECORD},,\n"


def test_the_original_is_untouched(wheel: Path, slimmed: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("made_up/big.so") == CONTENT["made_up/big.so"]


def test_a_pattern_that_matches_nothing_is_an_error(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fa2"):
        slim(wheel, tmp_path / "out", {"*/big.so": "too big", "*/fa2.so": "gone in 2.0"})


def manifest_for(wheel: Path, **about: Any) -> dict[str, Any]:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "python": python,
        "torch": "",
        "torch_present": False,
        "install": [wheel.name],
        "left_out": {},
        **about,
    }


def test_parts_become_a_virtual_environment_on_top_of_this_one(
    slimmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Workspace(tmp_path / "work")
    with pytest.raises(GpuError, match="carry the parts"):
        install(work)
    split(slimmed.parent, work.parts, manifest_for(slimmed))
    install(work)
    code = "import made_up, pytest; print(made_up.answer, made_up.__file__)"
    done = subprocess.run([work.python, "-c", code], capture_output=True, text=True, check=True)
    answer, file = done.stdout.split()
    assert answer == "42"
    assert Path(file).is_relative_to(work.venv)
    capsys.readouterr()
    install(work)
    assert "up to date" in capsys.readouterr().out


def test_missing_parts_are_named(slimmed: Path, tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work")
    split(slimmed.parent, work.parts, manifest_for(slimmed))
    (work.parts / "part-000").unlink()
    with pytest.raises(GpuError, match="part-000"):
        install(work)


def test_another_torch_than_expected(slimmed: Path, tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work")
    split(slimmed.parent, work.parts, manifest_for(slimmed, torch="1.2.3", torch_present=True))
    with pytest.raises(GpuError, match=r"torch 1\.2\.3 should be here, found"):
        install(work)


def test_prepare_needs_the_targets_python() -> None:
    given = argparse.Namespace(python="3.7")
    with pytest.raises(GpuError, match=r"with Python 3\.7; this is 3\."):
        prepare.main(given)


def test_another_python_than_the_wheels() -> None:
    with pytest.raises(GpuError, match=r"for Python 3\.7; this is 3\."):
        check_python({"python": "3.7"})


def test_a_venv_sees_the_packages_of_the_one_it_was_made_from(tmp_path: Path) -> None:
    make_venv(tmp_path / "venv")
    code = "import pytest; print(pytest.__file__)"
    python = tmp_path / "venv" / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == pytest.__file__


def test_only_what_was_left_out_may_be_missing() -> None:
    manifest = {
        "install": ["vllm-0.31.0-cp38-abi3-any.whl", "made_up-1.0-py3-none-any.whl"],
        "left_out": {"torch": "is there", "flashinfer-python": "compiles"},
    }
    lines = [
        "vllm 0.31.0 requires flashinfer-python, which is not installed.",
        "vllm 0.31.0 has requirement torch==2.13.0, but you have torch 2.11.0.",
        "somebody 1.0 requires else, which is not installed.",
        "made-up 1.0 requires numpy, which is not installed.",
        "vllm 0.31.0 has requirement numpy<2, but you have numpy 3.0.",
    ]
    assert unmet(lines, manifest) == lines[3:]


TORCH = {"torch", "triton", "nvidia-cublas", "cuda-toolkit", "numpy"}
WANTED = [*TORCH, "vllm", "nvidia-cutlass-dsl-libs-cu13", "nvidia-ml-py", "opencv-python-headless"]


def test_a_torch_that_is_there_is_not_carried() -> None:
    left_out = leave_out(WANTED, TORCH, TORCH)
    kept = set(WANTED) - set(left_out)
    assert kept == {"numpy", "vllm", "nvidia-ml-py"}
    assert left_out["nvidia-cublas"] == "comes with the target's torch"


def test_without_one_all_of_it_is_carried() -> None:
    kept = set(WANTED) - set(leave_out(WANTED, {}, TORCH))
    assert kept == TORCH | {"vllm", "nvidia-ml-py"}


def test_platforms_reach_back_from_the_targets_c_library() -> None:
    tags = platforms("2.28")
    assert tags[0] == "manylinux_2_28_x86_64"
    assert "manylinux_2_17_x86_64" in tags
    assert "manylinux_2_31_x86_64" not in tags


def test_names_are_compared_as_the_index_spells_them() -> None:
    assert canonical("Outlines_Core") == canonical("outlines.core") == "outlines-core"
