# shellcheck shell=bash
# What the scripts of hack/ share. Source it, do not run it.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # for those who source this
cache=${HAWSER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hawser}

# Some programs live where ordinary users do not look, nor who became root by plain su.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '==> %s\n' "$*" >&2; }

# fail WHAT [WHAT-TO-DO]: ends the script.
fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '       %s\n' "$2" >&2
    exit 1
}

# need COMMAND PACKAGE: ends the script when COMMAND is missing.
need() {
    command -v "$1" >/dev/null || fail "'$1' is missing (Debian package $2)" "run $repo/hack/setup as root, or apt-get install $2"
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "$1 needs root: it makes network namespaces" "run it again as root"
}
