"""The parser of the commands: it says what is wrong in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from conf_server.nearest import did_you_mean
from conf_server.terminal import say

_UNKNOWN = "unrecognized arguments: "


class CommandParser(argparse.ArgumentParser):
    """Refuses bad usage with status 2 and one line, which has the nearest flag for a wrong one."""

    def error(self, message: str) -> NoReturn:
        if message.startswith(_UNKNOWN):
            wrong = message.removeprefix(_UNKNOWN).split()[0].partition("=")[0]
            message += did_you_mean(wrong, self._option_string_actions)
        say(f"{self.prog}: error: {message}")
        raise SystemExit(2)
