# shellcheck shell=bash
# Functions shared by the scripts in hack/. To be sourced, not run.

# shellcheck disable=SC2034 # used by the sourcing scripts
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # used by the sourcing scripts
cache=${HAWSER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hawser}

# Directories of some programs are not in the PATH of ordinary users, nor after plain su.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '==> %s\n' "$*" >&2; }

# fail MESSAGE [REMEDY]: ends the script with status 1.
fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '       %s\n' "$2" >&2
    exit 1
}

# need COMMAND PACKAGE: ends the script if COMMAND is missing.
need() {
    command -v "$1" >/dev/null || fail "'$1' is missing" "install the Debian package $2: apt-get install $2"
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "$1 needs root to create network namespaces" "run it again as root"
}
