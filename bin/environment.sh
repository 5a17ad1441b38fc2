# Sourced by the other scripts of this folder: makes or reuses the virtual environment beside it.
#
# need_environment EXTRA installs the package with that extra (and the pinned versions of constraints.txt)
# into .venv, and does nothing when that was done before in this place with the same declarations. It prints
# to standard error, so that the output of a command that needs it stays its own. PYTHON names the interpreter.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
stamp="$venv/.vcm-installed"

need_environment() {
    local extra="$1" declared
    declared="$root $(cat "$root/setup.cfg" "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
    if is_installed; then return; fi
    # Two scripts started at once must not install into one folder.
    exec 9>"$root/.venv.lock"
    if command -v flock >/dev/null; then flock 9; fi
    if ! is_installed; then
        install_environment >&2
        echo "$declared $extra" >"$stamp"
    fi
    exec 9>&-
}

is_installed() { # the extra `dev` holds every other one
    [ -f "$stamp" ] && [[ "$(cat "$stamp")" == "$declared $extra" || "$(cat "$stamp")" == "$declared dev" ]]
}

is_usable() {
    [ -f "$venv/pyvenv.cfg" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

install_environment() {
    local python="${PYTHON:-python3}"
    if ! is_usable; then # none yet, or one whose making was interrupted
        if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3"
            exit 7
        fi
        echo "Making $venv ..."
        if ! "$python" -m venv --clear "$venv"; then
            echo "$python: cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)"
            exit 7
        fi
    fi
    echo "Installing vcm-ratecontrol[$extra] and what it needs (the first time takes minutes) ..."
    # The build back end first and from the same pins, so that nothing is taken outside of constraints.txt.
    pip_install setuptools wheel
    # Left by other ways of building, it would hide the installed entry points from whoever starts in this folder.
    rm -rf "$root/vcm_ratecontrol.egg-info"
    pip_install --no-build-isolation --editable "$root[$extra]"
}

pip_install() {
    # Never into the interpreter behind .venv, whatever state .venv is in. The warnings that are not shown are the
    # build back end's, that an editable installation is one.
    PIP_REQUIRE_VIRTUALENV=1 PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install \
        --quiet --disable-pip-version-check --constraint "$root/constraints.txt" "$@"
}
