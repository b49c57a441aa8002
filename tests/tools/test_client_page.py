"""How docs/clients.md is read."""

from __future__ import annotations

from tests.clients.page import PAGE, Block, blocks, differences, pins

TEXT = """
| Soap | `soap[hot]==1.2`, `water==3` |
| Tea | `tea@4.5.6` |

```python soap
print("http://localhost:8000", "none")  # http://localhost:8000 none
print(7.071)  # 7.07
```

```sh
not a client's
```
"""


def test_blocks_and_versions() -> None:
    (block,) = blocks(TEXT)
    assert (block.language, block.client, block.line) == ("python", "soap", 5)
    assert block.printed() == ["http://localhost:8000 none", "7.07"]
    assert block.against("http://there:1", "key").startswith('print("http://there:1", "key")')
    assert pins(TEXT, "==") == {"soap": ["soap[hot]==1.2", "water==3"]}
    assert pins(TEXT, "@") == {"tea": ["tea@4.5.6"]}


def test_output_is_compared() -> None:
    block = Block("python", "x", 1, "print(a)  # 7.07\nconsole.log(b); // Paris\n")
    assert not differences(block, "7.08\nParis\n")
    assert differences(block, "7.10\nParis\n")
    assert differences(block, "7.07\nRome\n")
    assert differences(block, "7.07\n")


def test_every_client_of_the_page_has_a_version_and_says_what_it_prints() -> None:
    text = PAGE.read_text()
    found = blocks(text)
    versions = {"python": pins(text, "=="), "ts": pins(text, "@")}
    for block in found:
        if block.language != "yaml":
            assert block.client in versions[block.language], block.line
            assert block.printed(), block.line
    listed = {*pins(text, "=="), *pins(text, "@")}
    assert {block.client for block in found} == listed
