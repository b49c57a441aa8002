"""A file of requests and a file of answers: what is left to do, and doing it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack

from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server.batch.batch_client import BatchClient
from conf_server.batch.options import BatchOptions
from conf_server.batch.output import Output, open_output
from conf_server.batch.resume import NumberedLine, chained, require_server, unanswered
from conf_server.batch.run import Counts, Run
from conf_server.batch.streams import count_lines, input_lines, open_input
from conf_server.signals import Signals


class FileJob:
    """Sends every line of an input that has no answer yet, and writes the answers."""

    def __init__(
        self,
        options: BatchOptions,
        output: Output,
        left: list[NumberedLine],
        lines: AsyncIterator[NumberedLine],
    ) -> None:
        """
        Args:
            left: lines without an answer among those that have one.
            lines: those after them.
        """
        self._options = options
        self._output = output
        self._left = left
        self._lines = lines

    @classmethod
    async def opened(cls, options: BatchOptions, stack: ExitStack) -> FileJob:
        """Open both files and compare them. The output stays as it is until `run`.

        Args:
            stack: closes the files.

        Raises:
            UsageError: a file cannot be used, a line that is answered has changed, or the answers
                are of another model than --model.
            StopRunError, OSError: the input cannot be read.
        """
        file = stack.enter_context(open_input(options.input))
        output = stack.enter_context(open_output(options.output, options.overwrite))
        lines = input_lines(file, options.input)
        left = await unanswered(lines, output.found, options)
        if options.served is not None:
            require_server(output.found, options.served, options)
        return cls(options, output, left, lines)

    @property
    def num_answered(self) -> int:
        """Lines that an earlier run has answered."""
        return self._output.found.count

    async def run(self, client: BatchClient, counts: Counts, signals: Signals) -> None:
        """Send the lines until there are no more, or until a signal stops the run.

        Raises:
            UsageError: the answers that are there are another server's.
            StopRunError: no further line can be answered.
            OSError: nothing more can be written.
        """
        options, output = self._options, self._output
        model = await client.model()
        server = options.served or f"{model.name} ({model.root})"
        require_server(output.found, server, options)
        output.begin(options.overwrite)
        counts.begun = True
        with _bar(options, output) as bar:
            run = Run(options, client, output, bar, counts, server, model.name)
            await run.run(chained(self._left, self._lines), signals)


def _bar(options: BatchOptions, output: Output) -> tqdm:
    """The bar of the run. With disable=None tqdm shows itself to terminals alone."""
    disable = None if options.progress is None else not options.progress
    shown = options.progress or (options.progress is None and sys.stderr.isatty())
    total = count_lines(options.input) if shown else None
    return tqdm(total=total, initial=output.found.count, unit="line", disable=disable)
