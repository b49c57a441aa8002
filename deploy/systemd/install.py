#!/usr/bin/env python3
"""Install conf-server's systemd units, or stage them into a directory for a package.

The unit files beside this script are complete; what differs between machines is put in
here: where conf-server is and which user runs it. Environment files that exist are kept.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG_DIR = Path("/etc/conf-server")
DEFAULT_EXEC = "/opt/conf-server/venv/bin/conf-server"
DEFAULT_USER = "conf-server"
UNITS = ("conf-server.service", "conf-server@.service")


@dataclass(frozen=True)
class Target:
    """One file to install, at its path on the machine that will run it."""

    path: Path
    text: str
    mode: int = 0o644
    keep: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Write what changed, and say what to do next. Returns the exit status."""
    options = parse_args(argv)
    if not options.destdir and (problem := missing_here(options)):
        print(f"install.py: {problem}", file=sys.stderr)
        return 2
    try:
        for target in targets(options):
            print(f"{write(target, options.destdir):9} {staged(target.path, options.destdir)}")
        if not options.destdir:
            tell_systemd(options.user)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"install.py: {error}", file=sys.stderr)
        return 1
    print(next_steps(options))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags, each checked to be usable in a unit file as it is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--venv",
        type=plain_path,
        metavar="DIR",
        help="virtual environment that conf-server is installed in",
    )
    where.add_argument(
        "--exec",
        type=plain_path,
        default=DEFAULT_EXEC,
        metavar="PATH",
        help="conf-server itself (default: %(default)s)",
    )
    parser.add_argument(
        "--user",
        type=user_name,
        default=DEFAULT_USER,
        help="who runs the server; another than the default must exist (default: %(default)s)",
    )
    parser.add_argument(
        "--instance",
        action="store_true",
        help="only conf-server@.service, for one or more named models",
    )
    parser.add_argument(
        "--prefix",
        type=plain_path,
        metavar="DIR",
        help="for packages: DIR/lib/systemd/system (say /usr) in place of /etc/systemd/system",
    )
    parser.add_argument(
        "--destdir",
        default="",
        metavar="DIR",
        help="put everything below DIR, and leave the running systemd alone",
    )
    options = parser.parse_args(argv)
    if options.venv:
        options.exec = f"{options.venv}/bin/conf-server"
    return options


def plain_path(text: str) -> str:
    """An absolute path without the characters that mean something to systemd."""
    path = os.path.abspath(text)
    if not re.fullmatch(r"[\w@+=:,./-]+", path, re.ASCII):
        raise argparse.ArgumentTypeError(f"blanks, quotes, % and $ do not work in a unit: {path!r}")
    return path


def user_name(text: str) -> str:
    """A name systemd takes without complaint."""
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", text):
        raise argparse.ArgumentTypeError(f"not a user's name: {text!r}")
    return text


def missing_here(options: argparse.Namespace) -> str | None:
    """What the units would fail for on this machine."""
    if not os.access(options.exec, os.X_OK):
        return f"{options.exec} is no executable; say where it is with --venv or --exec"
    if options.user != DEFAULT_USER:
        try:
            pwd.getpwnam(options.user)
        except KeyError:
            return f"there is no user {options.user}"
    return None


def targets(options: argparse.Namespace) -> list[Target]:
    """Everything to install, in an order that leaves no unit without what it needs."""
    units = Path(options.prefix or "/etc") / ("lib/systemd" if options.prefix else "systemd")
    example = (HERE / "conf-server.env").read_text()
    found = []
    if options.user == DEFAULT_USER:
        sysusers = (HERE / "conf-server.sysusers").read_text()
        found.append(Target(units.parent / "sysusers.d" / "conf-server.conf", sysusers))
    # Not *.env: that would be an instance's.
    found.append(Target(CONFIG_DIR / "env.example", example))
    if not options.instance:
        found.append(Target(CONFIG_DIR / "conf-server.env", example, mode=0o600, keep=True))
    for name in UNITS[1:] if options.instance else UNITS:
        text = render((HERE / name).read_text(), options.exec, options.user)
        found.append(Target(units / "system" / name, text))
    return found


def render(unit: str, executable: str, user: str) -> str:
    """The unit for this machine."""
    for default, value in {
        f"ExecStart={DEFAULT_EXEC} ": f"ExecStart={executable} ",
        f"=PATH={os.path.dirname(DEFAULT_EXEC)}:": f"=PATH={os.path.dirname(executable)}:",
        f"User={DEFAULT_USER}\n": f"User={user}\n",
    }.items():
        if unit.count(default) != 1:
            raise ValueError(f"the unit file must say {default!r} once")
        unit = unit.replace(default, value)
    return unit


def staged(path: Path, destdir: str) -> Path:
    """Where the file goes now."""
    return Path(destdir) / path.relative_to("/") if destdir else path


def write(target: Target, destdir: str) -> str:
    """Write unless it is there already. Returns what was done."""
    path = staged(target.path, destdir)
    if path.exists():
        if target.keep:
            return "kept"
        if path.read_text() == target.text:
            return "unchanged"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Created with its mode: an environment file may hold secrets.
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(
        os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, target.mode), "w"
    ) as file:
        os.fchmod(file.fileno(), target.mode)
        file.write(target.text)
    scratch.replace(path)
    return "wrote"


def tell_systemd(user: str) -> None:
    """Make the user and read the units, where systemd runs."""
    if not Path("/run/systemd/system").is_dir():
        print("systemd does not run here: no user made, no units loaded")
        return
    if user == DEFAULT_USER:
        subprocess.run(["systemd-sysusers"], check=True)
    subprocess.run(["systemctl", "daemon-reload"], check=True)


def next_steps(options: argparse.Namespace) -> str:
    """The commands that start a server."""
    instance = f"""
  sudo install -m 600 {CONFIG_DIR}/env.example {CONFIG_DIR}/NAME.env
  sudoedit {CONFIG_DIR}/NAME.env           # MODEL, a --port and CUDA_VISIBLE_DEVICES of its own
  sudo systemctl enable --now --no-block conf-server@NAME"""
    single = f"""
  sudoedit {CONFIG_DIR}/conf-server.env    # MODEL and flags
  sudo systemctl enable --now --no-block conf-server
  journalctl -fu conf-server"""
    if options.instance:
        return f"\nNext, for each model:{instance}"
    return f"\nNext:{single}\nor, for several models:{instance}"


if __name__ == "__main__":
    sys.exit(main())
