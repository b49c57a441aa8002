"""What a server wants to find on the machine: a model where it is said to be, a free address."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Final

from conf_server.settings import SettingsError

_PATH_STARTS: Final = ("/", "./", "../", "~")


def check_model(model: str, *, config_elsewhere: bool = False) -> None:
    """Refuse a folder that holds no model, or is not there. A name on a hub is not looked up.

    Args:
        config_elsewhere: whether flags say that its config is another file, or of another form.

    Raises:
        SettingsError: saying what is wrong with it.
    """
    path = Path(model)
    if not path.exists():
        if model.startswith(_PATH_STARTS) or _has_parts(model):
            raise SettingsError(f"--model: no such folder: {model}")
        return
    config = path / "config.json"
    if not path.is_dir() or config_elsewhere:
        return
    if not config.exists():
        if not (path / "params.json").exists() and not any(path.glob("*.gguf")):
            raise SettingsError(f"--model: {model} holds no model: no config.json in it")
        return
    try:
        found = json.loads(config.read_bytes())
    except OSError as error:
        raise SettingsError(f"--model: {config}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"--model: {config} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"--model: {config} must hold a JSON object")


def _has_parts(model: str) -> bool:
    """Whether a name has more parts than one on a hub can have."""
    return "://" not in model and model.rstrip("/").count("/") > 1 and not model.endswith(".gguf")


def socket_at(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket that has its address, and does not listen yet.

    Args:
        host: empty for every interface.

    Raises:
        SettingsError: the address is not to be had.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        raise cannot_listen(f"{host or '0.0.0.0'}:{port}", error) from error
    return sock


def cannot_listen(address: str, error: Exception) -> SettingsError:
    """The error that says why a server cannot have its address."""
    reason = getattr(error, "strerror", None) or str(error)
    return SettingsError(f"--port: cannot listen on {address}: {reason}")


def check_unix_socket(path: str) -> None:
    """
    Raises:
        SettingsError: there is something at this path, or no folder to make it in.
    """
    if os.path.lexists(path):
        raise SettingsError(
            f"--uds: {path} is there already: another server's, or left over from one"
        )
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise SettingsError(f"--uds: no such folder: {folder}")
