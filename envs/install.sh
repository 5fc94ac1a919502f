#!/bin/sh
# Installs the locked environment into .venv: hashed lock, torch for this machine, this package. Called by make.
# PYTHON names the interpreter (3.11 or newer), VENV the folder. uv is used where it is installed, else pip.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
python=${PYTHON:-python3}
torch=$(sed -n "s/^torch==//p" envs/torch.txt)
cpu_index=https://download.pytorch.org/whl/cpu

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is older than Python 3.11. Name a newer one: make setup PYTHON=python3.11" >&2
    exit 1
}

# uv does not read pip's configuration: hand over what it needs of it.
pip_setting() { "$python" -m pip config get "global.$1" 2>/dev/null || true; }
links=${PIP_FIND_LINKS:-$(pip_setting find-links)}
if command -v uv >/dev/null 2>&1; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv"
    comma_links=$(echo $links | tr ' ' ',')
    index=${PIP_INDEX_URL:-$(pip_setting index-url)}
    certificate=${PIP_CERT:-$(pip_setting cert)}
    [ -z "$comma_links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$comma_links}"
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    [ -z "$certificate" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificate}"
    export UV_COMPILE_BYTECODE=1 # as pip does: without it every start of snakemake takes seconds longer
    install() { uv pip install --quiet --python "$venv/bin/python" "$@"; }
    unmet() { uv --color never pip check --python "$venv/bin/python" 2>&1; } # uv tells everything on stderr
else
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    install() { "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check "$@"; }
    unmet() { "$venv/bin/python" -m pip --disable-pip-version-check check; }
fi
# galore-torch, a peer in tests and benchmarks, asks for bitsandbytes, which only its 8-bit optimizer uses.
# Its line and the summaries may be said; any other line, or a failure that it does not explain, ends the installation.
check() {
    expected='galore-torch.* requires `?bitsandbytes`?, (which|but it)'
    summary='^(Using Python |Checked [0-9]+ packages? in |Found [0-9]+ incompatibilit|All installed packages are compatible|No broken requirements found)'
    status=0
    said=$(unmet) || status=$?
    others=$(echo "$said" | grep -Ev -e "$expected" -e "$summary" -e '^$') || true
    if [ -z "$others" ] && { [ "$status" = 0 ] || { [ "$status" = 1 ] && echo "$said" | grep -Eq "$expected"; }; }; then
        return 0
    fi
    echo "the installed packages do not fit together, or could not be checked (exit code $status):" >&2
    echo "$said" >&2
    return 1
}

has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || { command -v nvidia-smi && nvidia-smi -L; } >/dev/null 2>&1; }
offered_cpu_build() {
    for folder in $links; do
        for wheel in "${folder#file://}"/torch-"$torch"+cpu-*.whl; do
            [ ! -e "$wheel" ] || return 0
        done
    done
    return 1
}

echo "1/3 packages of envs/requirements.lock"
install --require-hashes --no-deps -r envs/requirements.lock
if has_nvidia_driver; then
    echo "2/3 torch $torch, CUDA build (this machine has an NVIDIA driver)"
    install "torch==$torch" -c envs/constraints.txt
elif offered_cpu_build; then
    echo "2/3 torch $torch, CPU build of the configured find-links folder"
    install "torch==$torch+cpu" -c envs/constraints.txt
else
    echo "2/3 torch $torch, CPU build of $cpu_index"
    install --no-deps "torch==$torch" --index-url "$cpu_index" # all it needs is in the lock
fi
echo "3/3 gemsbench itself"
install --no-deps -e .
check
