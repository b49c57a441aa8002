"""vLLM's argument parser, whose `--help` shows our flags first."""

from vllm.utils.argparse_utils import FlexibleArgumentParser


class ConfServerArgumentParser(FlexibleArgumentParser):
    """Shows our group of flags in full, above the titles of vLLM's groups."""

    OURS = "Confidence"

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
