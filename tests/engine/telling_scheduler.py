"""A scheduler that a test can ask, through the engine's client, whether it keeps rows.

It stands apart from the worker's part: the worker imports its scheduler's module so early that
vLLM 0.32 on CPU does not start where that module brings numba along.
"""

from __future__ import annotations

from typing import Any

from conf_server.engine.core.scheduler import ConfidenceScheduler


class TellingScheduler(ConfidenceScheduler):
    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        """Say whether nothing is kept of a request, and no block is used.

        This call is one that a client can make.
        """
        kept = self._deferred_rows or self._early_stops or self.requests
        return not kept and self.kv_cache_manager.usage == 0.0
