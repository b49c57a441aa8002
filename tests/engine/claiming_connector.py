"""A KV connector that claims to have every text, and has none."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
)


class ClaimingConnector(KVConnectorBase_V1):
    """Named by `kv_connector_module_path`."""

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
        return request.num_tokens - 1 - num_computed_tokens, False

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def update_state_after_alloc(self, *args: Any) -> None: ...

    def start_load_kv(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_for_layer_load(self, layer_name: str) -> None: ...

    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_for_save(self) -> None: ...
