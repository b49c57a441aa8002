"""Records what DeepConf's own code takes for the answer of a text, beside this file.

    git clone https://github.com/facebookresearch/deepconf && git -C deepconf checkout 675529d
    python tests/unit/thinking/vectors/record_boxed.py deepconf

Its code is run and not kept: deepconf/utils.py, which needs numpy alone.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

COMMIT = "675529d"
FRAGMENTS = (
    *(r"\boxed{", "boxed{", "boxed", r"\boxed", r"\boxed ", r"\fbox{", "{", "}", "}}", "{{"),
    *("$", " ", "\n", r"\frac{1}{2}", "70", "x", r"\{", r"\}", ".", "The answer is ", "é", "答"),
)


def texts(count: int, seed: int) -> list[str]:
    """Random sequences of pieces that the rule is made of; more of the longer ones have a box."""
    draw = random.Random(seed)
    return ["".join(draw.choices(FRAGMENTS, k=draw.randint(0, 14))) for _ in range(count)]


def main(checkout: str) -> None:
    spec = importlib.util.spec_from_file_location(
        "deepconf_utils", Path(checkout) / "deepconf" / "utils.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = [[text, module.extract_answer(text)] for text in texts(400, seed=0)]
    recorded = {"repository": "facebookresearch/deepconf", "commit": COMMIT, "cases": cases}
    Path(__file__).with_name("boxed.json").write_text(
        json.dumps(recorded, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(sys.argv[1])
