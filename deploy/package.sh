#!/bin/sh
# A built binary -> what is given to others: a Debian package, or an archive for install.sh.
#
#   package.sh deb [BINARY] [VERSION]   target/package/skiff_VERSION_ARCH.deb
#   package.sh tar [BINARY] [VERSION]   target/package/skiff-ARCH.tar.gz and its .sha256
#
# By dpkg-deb, which every Debian has: cargo-deb would be built for minutes, and knows nothing that this does not.
set -eu
cd "$(dirname "$0")/.."

die() { printf 'package: %s\n' "$*" >&2; exit 1; }

kind=${1:-}
binary=${2:-}
# The one that was built last.
# shellcheck disable=SC2012  # two known names
[ -n "$binary" ] || binary=$(ls -t target/dist/skiff target/release/skiff 2>/dev/null | head -n 1)
[ -f "$binary" ] || die "there is no skiff: cargo build --profile dist -p skiff first"
version=${3:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
[ -n "$version" ] || die "Cargo.toml says no version"
arch=$(dpkg --print-architecture)
out=${PACKAGE_DIR:-target/package}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $kind in
    deb)
        chmod 755 "$work"
        install -D -m 755 "$binary" "$work/usr/bin/skiff"
        install -D -m 755 deploy/provision.sh "$work/usr/share/skiff/provision.sh"
        for unit in skiff-server.service skiff-agent.service; do
            mkdir -p "$work/lib/systemd/system"
            sed 's|/usr/local/bin/skiff|/usr/bin/skiff|' deploy/$unit >"$work/lib/systemd/system/$unit"
            # By these links provision.sh knows that the units are the package's, and leaves them as they are.
            ln -s /lib/systemd/system/$unit "$work/usr/share/skiff/$unit"
        done
        install -D -m 644 LICENSE "$work/usr/share/doc/skiff/copyright"
        for script in postinst prerm postrm; do install -D -m 755 deploy/debian/$script "$work/DEBIAN/$script"; done
        cat >"$work/DEBIAN/control" <<END
Package: skiff
Version: $version
Architecture: $arch
Maintainer: The skiff authors <skiff@localhost>
Section: admin
Priority: optional
Depends: libc6 (>= 2.36), containerd, runc, iptables, iproute2
Recommends: kubernetes-client
Suggests: nftables
Installed-Size: $(du -sk "$work/usr" | cut -f 1)
Description: Kubernetes in one binary
 API server, store, scheduler, controllers, node agent, service proxy and cluster DNS.
 /usr/share/skiff/provision.sh makes this machine a server or a node; skiff up is a cluster on one machine.
END
        dpkg-deb --build --root-owner-group -Zgzip "$work" "$out/skiff_${version}_$arch.deb" >/dev/null
        echo "$out/skiff_${version}_$arch.deb"
        ;;
    tar)
        install -D -m 755 "$binary" "$work/skiff/skiff"
        for name in install.sh provision.sh; do install -m 755 deploy/$name "$work/skiff/$name"; done
        for name in skiff-server.service skiff-agent.service; do install -m 644 deploy/$name "$work/skiff/$name"; done
        tar -C "$work" --owner 0 --group 0 -czf "$out/skiff-$arch.tar.gz" skiff
        (cd "$out" && sha256sum "skiff-$arch.tar.gz" >"skiff-$arch.tar.gz.sha256")
        echo "$out/skiff-$arch.tar.gz"
        ;;
    *) die "usage: package.sh deb|tar [BINARY] [VERSION]" ;;
esac
