"""A worker that a test can ask which requests it knows."""

from __future__ import annotations

from conf_server.engine.worker.extension import StatisticsExtension


class TellingExtension(StatisticsExtension):
    def requests_left(self) -> list[str]:
        """Ids of all requests that the model runner and our parts of it know."""
        runner = self.model_runner
        return [*runner.requests, *runner.prompt_statistics._requests]
