#!/usr/bin/env bash
# Creates .venv with everything nanochat needs: bash runs/setup.sh [--dev]
# Needs git, Python 3.11+ and a network or local wheels. Cheap to rerun: a stamp file inside .venv
# records what was installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'set-up: %s\n' "$*" >&2; }
die() { printf 'set-up stopped: %s\n' "$*" >&2; exit 1; }

groups=
case "${1-}" in
    "") ;;
    --dev) groups="--group dev" ;;
    *) die "unknown option '$1' (the only one is --dev)" ;;
esac

extra=cpu
if nvidia-smi -L > /dev/null 2>&1; then extra=gpu; fi

# --- nothing to do? A development environment also satisfies a call without --dev. ---
stamp=.venv/.nanochat-setup # what was installed; the second line is --no-sources if that was needed
wanted="$(cksum < pyproject.toml) $PWD $extra"
installed=
sources=
if [ -x .venv/bin/python ] && [ -x .venv/bin/nanochat ] && [ -f "$stamp" ]; then
    installed="$(sed -n 1p "$stamp")"
    sources="$(sed -n 2p "$stamp")"
fi
case "$installed" in "$wanted $groups" | "$wanted --group dev") exit 0 ;; esac

# --- Python, compiler, disk ---
python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; then
        python="$("$candidate" -c 'import sys; print(sys.executable)')"
        break
    fi
done
if [ -z "$python" ]; then
    found="$("${PYTHON:-python3}" --version 2> /dev/null || echo "no ${PYTHON:-python3}")"
    die "Python 3.11 or newer is needed (found: $found); install it, or choose one: PYTHON=/path/to/python3.12 bash $0"
fi
if ! command -v "${CXX:-c++}" > /dev/null && ! command -v g++ > /dev/null && ! command -v clang++ > /dev/null; then
    say "no C++ compiler found: everything works except torch.compile, but a CPU trains and answers slower (install g++)"
fi
need_mib=3000
if [ "$extra" = gpu ]; then need_mib=12000; fi
free_mib="$(df -Pm . | awk 'NR == 2 { print $4 }')"
if [ "$free_mib" -lt "$need_mib" ] && [ ! -d .venv ]; then
    die "$need_mib MiB of disk space are needed, but $PWD has $free_mib free; free some, or move the folder"
fi

# --- uv: from the PATH, else a copy in .uv (by pip, or by uv's installer) ---
tools="$PWD/.uv"
PATH="$PATH:$tools/bin:${HOME:-/nonexistent}/.local/bin"
if ! command -v uv > /dev/null; then
    say "installing uv into $tools"
    mkdir -p "$tools" || die "cannot write to $PWD; make it writable"
    printf '*\n' > "$tools/.gitignore"
    "$python" -m pip install --quiet --target "$tools" --upgrade uv >&2 \
        || curl -LsSf https://astral.sh/uv/install.sh \
            | env UV_INSTALL_DIR="$tools/bin" UV_NO_MODIFY_PATH=1 sh >&2 \
        || die "neither pip nor uv's installer could install uv; install it yourself (https://docs.astral.sh/uv) and run this again"
fi

# --- local wheels configured for pip are passed on to uv ---
if [ -z "${UV_FIND_LINKS-}" ]; then
    links="${PIP_FIND_LINKS-}"
    for key in global.find-links install.find-links; do
        if [ -z "$links" ]; then links="$("$python" -m pip config get "$key" 2> /dev/null || true)"; fi
    done
    links="$(printf '%s' "$links" | tr -s '[:space:]' ',')"
    links="${links#,}"
    if [ -n "${links%,}" ]; then export UV_FIND_LINKS="${links%,}"; fi
fi

# --- the packages; --inexact keeps what you have added to .venv yourself ---
unset VIRTUAL_ENV
install() { # shellcheck disable=SC2086 # the options are words, and some are empty
    uv sync --inexact --python "$python" --extra "$extra" $groups "$@" >&2
}
say "installing the packages ($extra) with $("$python" --version)"
if [ -n "$sources" ] || ! install; then
    if [ -z "$sources" ]; then say "retrying with torch from the default index (PyTorch's own may be unreachable)"; fi
    sources=--no-sources
    install --no-sources || die "the packages could not be installed (see uv's message above); fix that and run this again"
fi
ln -sf "$(command -v uv)" .venv/bin/uv # so that `uv pip install` adds to an activated .venv
printf '%s\n%s\n' "$wanted $groups" "$sources" > "$stamp"
say "ready: .venv/bin/nanochat"
