#!/bin/sh
# A fresh Debian -> a server or a node of a cluster. What Vagrant runs in its machines, install.sh on yours, and the tests in theirs. May be run again:
# what is not told anew stays as it was told before, unless the machine becomes the other of the two.
#
#   provision.sh server [OPTION...]            control plane and node
#   provision.sh agent --server URL [OPTION...]  a node
#   provision.sh start                         starts what was set up here, where no systemd does it
#
#   --binary FILE        the skiff to install [default: the one beside this script, else the one that is installed]
#   --images DIR         archives of images (*.tar) for machines without internet [default: images beside this script]
#   --network CIDR       the machines' common network: this machine's address there becomes its node-ip. With Vagrant the first interface is a NAT
#                        on which every machine has the same address, 10.0.2.15: no node could reach another there
#   --token TOKEN        what lets nodes in
#   --name NAME          the node's name [default: the host name]
#   --set KEY=VALUE      any other flag, by its name; without a value: none
#   --no-wait            do not wait until the node is Ready
set -eu
export PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"

# Where we lie: the binary, the units and the images stand beside us.
HERE=$(cd "$(dirname "$0")" && pwd)
BIN=/usr/local/bin/skiff
CONFIG=/etc/skiff/config.yaml
# Which of the two this machine is.
ROLE=/etc/skiff/role
# The first line of what is written here.
OURS='# Written by provision.sh'
LOG=/var/log/skiff.log
IMAGES=/var/lib/skiff/agent/images
READY_SECONDS=300

say() { printf 'provision: %s\n' "$*"; }
die() { printf 'provision: %s\n' "$*" >&2; exit 1; }

has_systemd() { [ -d /run/systemd/system ]; }

# What skiff itself starts. A containerd that comes with its package is not wanted as a service; one that was here before is left alone.
need_programs() {
    missing=
    command -v containerd >/dev/null && command -v ctr >/dev/null || missing="$missing containerd"
    command -v runc >/dev/null || missing="$missing runc"
    command -v iptables-restore >/dev/null || missing="$missing iptables"
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || die "this machine lacks$missing"
    say "apt-get install$missing"
    apt-get -q update >/dev/null
    # shellcheck disable=SC2086  # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing >/dev/null
    case $missing in *containerd*) ! has_systemd || systemctl -q disable --now containerd ;; esac
}

install_binary() {
    binary=$1
    [ -n "$binary" ] || [ ! -f "$HERE/skiff" ] || binary=$HERE/skiff
    if [ -z "$binary" ]; then
        command -v skiff >/dev/null || die "there is no skiff beside this script: name one with --binary"
        BIN=$(command -v skiff)
        return 0
    fi
    [ -f "$binary" ] || die "--binary $binary: there is no such file"
    cmp -s "$binary" $BIN || { say "$BIN"; mkdir -p "$(dirname $BIN)"; install -m 755 "$binary" $BIN; }
}

# Imported when the node starts, once for each content.
copy_images() {
    dir=${1:-$HERE/images}
    [ -d "$dir" ] || { [ -z "$1" ] || die "--images $dir: there is no such directory"; return 0; }
    for archive in "$dir"/*.tar; do
        [ -f "$archive" ] && ! cmp -s "$archive" "$IMAGES/$(basename "$archive")" || continue
        say "$IMAGES/$(basename "$archive")"
        mkdir -p $IMAGES
        # Whole or not at all.
        cp "$archive" "$IMAGES/.$(basename "$archive")"
        mv "$IMAGES/.$(basename "$archive")" "$IMAGES/$(basename "$archive")"
    done
}

# CIDR: our address there.
address_in() {
    found=$(ip -o address show to "$1" | awk '{ sub("/.*", "", $4); print $4; exit }')
    [ -n "$found" ] || die "--network $1: no interface of this machine has an address there; it has $(ip -o -4 address | awk '{ printf "%s ", $4 }')"
    echo "$found"
}

# A value may hold anything but a quote: a YAML string.
line() { [ -z "$2" ] || printf "%s: '%s'\n" "$1" "$2"; }

# What was told before and is not told now. A value may go on in lines that are indented or begin with a dash.
told_before() {
    [ "$(cat $ROLE 2>/dev/null)" = "$role" ] || return 0
    awk -v given="$given" -v ours="$OURS" '
        index($0, ours) == 1 || /^$/ { next }
        /^[A-Za-z]/ { key = $0; sub(/ *:.*/, "", key); is_told = index(given, " " key " ") }
        !is_told || /^#/
    ' $CONFIG
}

write_config() {
    mkdir -p /etc/skiff
    [ -e $CONFIG ] || : >$CONFIG
    # It holds the token.
    chmod 600 $CONFIG
    (
        # Nobody else may look, not even while it is written.
        umask 077
        echo "$OURS: the names of flags, see skiff up --help and skiff agent --help."
        # The first server makes it known; agents show it.
        if [ "$role" = agent ]; then line token "$token"; else line agent-token "$token"; fi
        line node-name "$name"
        line node-ip "$ip"
        if [ "$role" = agent ]; then line server "$server"; else line advertise-address "$ip"; fi
        printf %s "$more"
        told_before
    ) >$CONFIG.new
    mv $CONFIG.new $CONFIG
    echo "$role" >$ROLE
}

# Pods keep running while it is started again.
enable_unit() {
    unit=skiff-$role.service
    copy=/etc/systemd/system/$unit
    case $(readlink "$HERE/$unit") in
        # The package's: a copy of ours would hide what an upgrade brings.
        /lib/systemd/system/*) ! head -n 1 $copy 2>/dev/null | grep -q "^$OURS" || rm $copy ;;
        *) { echo "$OURS: changes belong into $copy.d"; sed "s|/usr/local/bin/skiff|$BIN|" "$HERE/$unit"; } >$copy ;;
    esac
    systemctl daemon-reload
    systemctl -q reenable $unit
    end_unmanaged
    say "systemctl restart $unit"
    # A server is started once its node is Ready.
    if [ -n "$wait" ]; then systemctl restart $unit; else systemctl restart --no-block $unit; fi
}

# One that was started by hand has the machine: the unit would be started again for ever. Its pods go on.
end_unmanaged() {
    ! systemctl -q is-active skiff-server.service skiff-agent.service || return 0
    ended=$("$BIN" down --config $CONFIG 2>&1) || return 0
    case $ended in 'skiff stopped'*) say "a skiff that no unit started: $ended" ;; esac
}

start() {
    [ -s $ROLE ] || die "nothing was set up here: provision.sh server or provision.sh agent first"
    role=$(cat $ROLE)
    if [ "$role" = server ]; then set -- up --foreground --kubeconfig /etc/skiff/kubeconfig; else set -- agent; fi
    # Where what follows is written; what was before is of no interest to those who wait.
    : >$LOG
    chmod 600 $LOG
    setsid "$BIN" "$@" --config $CONFIG </dev/null >>$LOG 2>&1 &
    echo $! >/run/skiff-provision.pid
    say "skiff $role in the background (process $!), see $LOG"
}

# Without systemd: what was started before is told to end, and has ended.
end_running() {
    [ -s /run/skiff-provision.pid ] || return 0
    pid=$(cat /run/skiff-provision.pid)
    kill "$pid" 2>/dev/null || return 0
    left=150
    while kill -0 "$pid" 2>/dev/null; do
        left=$((left - 1))
        [ $left -gt 0 ] || die "skiff (process $pid) does not end"
        sleep 0.2
    done
}

# What it has said since it was started.
told() {
    if has_systemd; then
        journalctl -q -o cat "_SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value "$1")"
    else
        cat $LOG
    fi
}

# systemd starts it again where it ended by itself, and counts that.
has_ended() {
    if has_systemd; then
        [ "$(systemctl show -p NRestarts --value "$1")" != 0 ] || systemctl -q is-failed "$1"
    else
        ! kill -0 "$(cat /run/skiff-provision.pid)" 2>/dev/null
    fi
}

last_words() { if has_systemd; then journalctl -q -o cat -n 5 -u "$1"; else tail -n 5 $LOG; fi; }

# Until the node is Ready, or what was started has ended. Units do not wait for it: a machine that boots with no server in sight is up all the same.
await() {
    unit=skiff-$(cat $ROLE).service
    end=$(($(date +%s) + READY_SECONDS))
    until told "$unit" | grep -q ' is Ready$'; do
        ! has_ended "$unit" || die "skiff ended: $(last_words "$unit")"
        [ "$(date +%s)" -lt $end ] || die "the node is not Ready after $READY_SECONDS s: $(last_words "$unit")"
        sleep 0.2
    done
    say "$(told "$unit" | grep -o 'node .* is Ready$' | tail -n 1)"
}

[ "$(id -u)" = 0 ] || die "run it as root"
[ $# -ge 1 ] || die "usage: provision.sh server|agent|start [OPTION...]"
role=$1
shift
binary='' images='' network='' server='' token='' name='' more='' wait=yes ip=''
# The keys of the configuration that are told now, a space around each.
given=' '
while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
        --no-wait) wait=; continue ;;
    esac
    [ $# -gt 0 ] || die "$option: its value is missing"
    case $1 in *\'* | *"
"*) die "$option: quotes and line ends cannot be in a value" ;; esac
    case $option in
        --binary) binary=$1 ;;
        --images) images=$1 ;;
        --network) network=$1 given="${given}node-ip advertise-address " ;;
        --server) server=$1 given="${given}server " ;;
        --token) token=$1 given="${given}token agent-token " ;;
        --name) name=$1 given="${given}node-name " ;;
        --set) more="$more$(line "${1%%=*}" "${1#*=}")
" given="$given${1%%=*} " ;;
        *) die "$option: no such option" ;;
    esac
    shift
done

case $role in
    start)
        [ -x $BIN ] || BIN=$(command -v skiff) || die "skiff is not installed"
        if ! has_systemd; then
            start
        elif [ -n "$wait" ]; then
            systemctl start "skiff-$(cat $ROLE).service"
        else
            systemctl start --no-block "skiff-$(cat $ROLE).service"
        fi
        [ -z "$wait" ] || await
        exit 0
        ;;
    server) ;;
    agent)
        [ -n "$server" ] || told_before | grep -q '^server:' || die "agent: --server URL is missing, as in https://192.168.56.10:6443"
        ;;
    *) die "usage: provision.sh server|agent|start [OPTION...]" ;;
esac
need_programs
install_binary "$binary"
copy_images "$images"
[ -z "$network" ] || ip=$(address_in "$network")
write_config
if has_systemd; then
    enable_unit
else
    # One that runs is started again, with what it is told now.
    end_running
    start
fi
[ -z "$wait" ] || await
say "done: $role"
