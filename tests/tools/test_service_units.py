"""The systemd units: rendered by install.py, accepted by systemd, and alike where they must be."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conf_server.flags import DRAIN_S
from conf_server.settings import ENV_MODE, ENV_TOP_K

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNITS = ("conf-server.service", "conf-server@.service")
OF_THE_INSTANCE = {"Description", "EnvironmentFile"}


def install(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEPLOY / "install.py", *arguments], capture_output=True, text=True
    )


def verify(unit: Path) -> str:
    """What systemd has to say against a unit: nothing, if all is well."""
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is missing: apt-get install systemd", pytrace=False)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr + (f"exit status {done.returncode}" if done.returncode else "")


def settings(unit: Path) -> list[tuple[str, str]]:
    """Name and value of every line that is one."""
    lines = [line for line in unit.read_text().splitlines() if line[:1] not in ("", "#", "[")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment as far as systemd looks at one."""
    executable = tmp_path / "venv" / "bin" / "conf-server"
    executable.parent.mkdir(parents=True)
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    return tmp_path / "venv"


@pytest.fixture
def root(tmp_path: Path, venv: Path) -> Path:
    """A staging directory with everything installed in it."""
    root = tmp_path / "root"
    done = install("--venv", venv, "--destdir", root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("name", [*UNITS, "conf-server@qwen.service"])
def test_systemd_accepts_the_units(root: Path, name: str) -> None:
    assert verify(root / "etc/systemd/system" / name) == ""


@pytest.mark.parametrize(
    ("good", "bad"),
    [("WatchdogSec=60", "WatchdogSecs=60"), ("/bin/conf-server --model", "/bin/nothing --model")],
)
def test_verify_would_notice(root: Path, good: str, bad: str) -> None:
    unit = root / "etc/systemd/system/conf-server.service"
    text = unit.read_text()
    assert good in text
    unit.write_text(text.replace(good, bad))
    assert verify(unit) != ""


@pytest.mark.parametrize("name", UNITS)
def test_rendering_puts_in_the_path_and_the_user(tmp_path: Path, venv: Path, name: str) -> None:
    done = install("--venv", venv, "--user", "models", "--destdir", tmp_path / "root")
    assert done.returncode == 0, done.stderr
    unit = tmp_path / "root/etc/systemd/system" / name
    rendered = dict(settings(unit))
    command = f"{venv}/bin/conf-server --model ${{MODEL}} $CONF_SERVER_ARGS"
    assert rendered["ExecStart"] == command
    assert rendered["User"] == "models"
    assert f"Environment=PATH={venv}/bin:" in unit.read_text()
    assert "/opt/conf-server" not in unit.read_text()
    assert not (tmp_path / "root/etc/sysusers.d").exists()


def test_the_committed_units_are_what_the_defaults_render(tmp_path: Path) -> None:
    assert install("--destdir", tmp_path).returncode == 0
    for name in UNITS:
        assert (tmp_path / "etc/systemd/system" / name).read_text() == (DEPLOY / name).read_text()


def test_installing_again_changes_nothing(root: Path, venv: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    again = install("--venv", venv, "--destdir", root)
    assert again.returncode == 0
    assert "wrote" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_an_environment_file_is_private_and_kept(root: Path, venv: Path) -> None:
    file = root / "etc/conf-server/conf-server.env"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("MODEL=/srv/mine\n")
    assert "kept" in install("--venv", venv, "--destdir", root).stdout
    assert file.read_text() == "MODEL=/srv/mine\n"


def test_only_the_template_for_a_package(tmp_path: Path) -> None:
    assert install("--instance", "--prefix", "/usr", "--destdir", tmp_path).returncode == 0
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert installed == {
        "etc/conf-server/env.example",
        "usr/lib/systemd/system/conf-server@.service",
        "usr/lib/sysusers.d/conf-server.conf",
    }


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--exec", "/opt/my models/conf-server"),
        ("--venv", "/opt/%i"),
        ("--user", "Some One"),
    ],
)
def test_a_value_that_would_break_the_unit_is_refused(
    tmp_path: Path, flag: str, value: str
) -> None:
    done = install(flag, value, "--destdir", tmp_path)
    assert done.returncode == 2
    assert value in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--venv", "/nowhere"], "/nowhere/bin/conf-server"),
        (["--exec", sys.executable, "--user", "no-such-user"], "no-such-user"),
        (["--exec", sys.executable], None),
    ],
)
def test_what_this_machine_lacks_is_found_before_anything_is_written(
    arguments: list[str], problem: str | None
) -> None:
    script = runpy.run_path(str(DEPLOY / "install.py"), run_name="install")
    found = script["missing_here"](script["parse_args"](arguments))
    assert (found is None) if problem is None else (problem in found)


def test_the_two_units_differ_only_where_an_instance_must() -> None:
    one, many = (settings(DEPLOY / name) for name in UNITS)
    assert [name for name, _ in one] == [name for name, _ in many]
    different = {ours[0] for ours, theirs in zip(one, many, strict=True) if ours != theirs}
    assert different == OF_THE_INSTANCE


def test_the_unit_suits_the_server() -> None:
    unit = dict(settings(DEPLOY / UNITS[0]))
    assert (unit["Type"], unit["NotifyAccess"], unit["KillMode"]) == ("notify", "all", "mixed")
    assert int(unit["TimeoutStopSec"]) > DRAIN_S + 30
    assert unit["RestartPreventExitStatus"] == "2"
    breaks_cuda = {"MemoryDenyWriteExecute", "PrivateDevices", "DeviceAllow", "ProtectClock"}
    assert not breaks_cuda & unit.keys()
    assert unit["EnvironmentFile"] == "/etc/conf-server/conf-server.env"


def test_the_example_names_variables_that_exist() -> None:
    example = (DEPLOY / "conf-server.env").read_text()
    for name in ("MODEL", "CONF_SERVER_ARGS", "VLLM_API_KEY", ENV_MODE, ENV_TOP_K):
        assert f"{name}=" in example
