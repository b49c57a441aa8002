"""vLLM's argument parser, whose `--help` shows our flags first."""

from typing import NoReturn

from vllm.utils.argparse_utils import FlexibleArgumentParser

from conf_server.nearest import did_you_mean
from conf_server.settings import SettingsError

_UNKNOWN = "unrecognized arguments: "


class ConfServerArgumentParser(FlexibleArgumentParser):
    """Shows our group of flags in full, above the titles of vLLM's groups."""

    OURS = "Confidence"

    def error(self, message: str) -> NoReturn:
        """
        Raises:
            SettingsError: always, with what is wrong, and the nearest flag for one that is none.
        """
        if message.startswith(_UNKNOWN):
            wrong = message.removeprefix(_UNKNOWN).split()[0].partition("=")[0]
            message += did_you_mean(wrong, self._option_string_actions)
        raise SettingsError(message.removeprefix("argument "))

    def format_help(self) -> str:
        text = super().format_help()
        if self._search_keyword is not None:
            return text
        formatter = self._get_formatter()
        for group in self._action_groups:
            if group.title == self.OURS:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        head, separator, groups = text.partition("Config Groups:")
        return f"{head}{formatter.format_help()}\n{separator}{groups}"
