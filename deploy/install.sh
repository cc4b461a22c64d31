#!/bin/sh
# This machine -> a server, or a node: install.sh server|agent [OPTION...], as provision.sh takes them.
#
# Without internet where the files lie beside this script, as the archive of package.sh unpacks them (skiff, provision.sh, the units; images in images/*.tar);
# else the archive is fetched from $SKIFF_URL (https://...: the directory that holds skiff-ARCH.tar.gz and its .sha256).
set -eu

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

# file: from SKIFF_URL, to the working directory.
fetch() {
    if command -v curl >/dev/null; then
        curl -fsSL --proto '=https,file' --retry 3 -o "$1" "$SKIFF_URL/$1"
    elif command -v wget >/dev/null; then
        wget -q -O "$1" "$SKIFF_URL/$1"
    else
        die "neither curl nor wget is installed: unpack the archive beside this script instead"
    fi
}

case ${1:-} in
    server | agent) ;;
    *) die "usage: install.sh server|agent [OPTION...]: see the head of provision.sh" ;;
esac
[ "$(id -u)" = 0 ] || die "run it as root"
here=$(cd "$(dirname "$0")" && pwd)
if [ -f "$here/skiff" ] && [ -f "$here/provision.sh" ]; then
    exec "$here/provision.sh" "$@"
fi
[ -n "${SKIFF_URL:-}" ] || die "no skiff lies beside this script, and SKIFF_URL does not say where to fetch it"
case $SKIFF_URL in https://* | file://*) ;; *) die "SKIFF_URL must begin with https://" ;; esac
case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) die "there is no skiff for $(uname -m)" ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fetch "skiff-$arch.tar.gz"
fetch "skiff-$arch.tar.gz.sha256"
sha256sum --quiet -c "skiff-$arch.tar.gz.sha256" || die "what was fetched is not what it should be"
tar -xzf "skiff-$arch.tar.gz"
# Not exec: the files are removed afterwards.
./skiff/provision.sh "$@"
