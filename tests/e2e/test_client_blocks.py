"""The blocks of docs/clients.md for openai's Python client print what the page says.

`make clients` runs those of the other clients, which the tests do not install.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.clients.page import PAGE, Block, blocks, differences
from tests.server import Server

OURS = [
    block
    for block in blocks(PAGE.read_text())
    if (block.language, block.client) == ("python", "openai")
]


@pytest.mark.only_vllm("the Responses API")
@pytest.mark.parametrize("block", OURS, ids=lambda block: f"line-{block.line}")
def test_a_block_prints_what_the_page_says(server: Server, block: Block) -> None:
    code = block.against(server.url, server.api_key)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert block.printed()
    assert not differences(block, done.stdout)
