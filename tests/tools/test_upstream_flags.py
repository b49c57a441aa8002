"""The flags read off the sources of every supported vLLM are those of that release's parser.

The sources are those that `make upstream-check` has downloaded; a release without them is skipped.
The parser runs on the packages that the installed vLLM needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import check
import pytest

from conf_server.vllm_flags import RELEASES, flags_of, may_be_flag
from tests.tools.upstream_project import REPOSITORY

HOME = check.Home.of(REPOSITORY)
VERSIONS = [record.version for record in HOME.records()]

CODE = """
import json, sys
from conf_server.flags import make_parser
print("\\n" + json.dumps(list(make_parser()._option_string_actions)))
"""


def test_the_flags_of_every_supported_release_can_be_read() -> None:
    assert tuple(version.rpartition(".")[0] for version in VERSIONS) == RELEASES


@pytest.mark.parametrize("version", VERSIONS)
def test_no_flag_of_the_parser_is_missing(version: str, tmp_path: Path) -> None:
    archives = list((HOME.root / ".cache" / "upstream").glob(f"vllm*-{version}.zip"))
    if not archives:
        pytest.skip(f"no sources of vLLM {version}: make upstream-check downloads them")
    with zipfile.ZipFile(archives[0]) as sources:
        sources.extractall(tmp_path)
    # vLLM looks up its own version to know that it is the one for CPUs.
    metadata = tmp_path / f"vllm-{version}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    real = json.loads(run.stdout.splitlines()[-1])
    read = flags_of(tmp_path / "vllm")
    assert read is not None
    known = read | {"-h"}
    vllm = [flag for flag in real if not flag.startswith(OURS)]
    assert len(vllm) > 300
    assert [flag for flag in vllm if not may_be_flag(flag, known)] == []


OURS = tuple(
    f"--{name}"
    for name in (
        *("confidence-", "default-methods", "max-score-", "max-forced-tokens", "fitted", "uhead"),
        *("enable-hidden-states", "max-hidden-state-values", "max-attention-bytes", "scorer"),
        *("max-uncertainty-", "max-judged-characters", "max-body-bytes", "embedding-model"),
        *("nli-model", "similarity-device", "token-statistics", "logprobs-encoder"),
        *("max-engine-silence", "max-think-"),
    )
)
