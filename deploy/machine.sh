#!/bin/sh
# Names -> machines that are none: namespaces of this one, with a disk, a network and a process tree of their own.
#
# A machine is the processes of one PID namespace, with mounts (its own root: this machine's files, seen through an overlay), network, host name,
# IPC and cgroups of their own. Where its first process is killed, everything that ran on it is gone, as after a power cut; its disk is a directory and stays.
# A world is a set of machines and switches (a network namespace with a bridge, or a bridge of this machine). All its traces bear its name.
# Used by `skiff up --nodes N` (src/up/machines.rs) and by the tests of several nodes (e2e/src/nodes.rs); needs root, iproute2 and util-linux.
#
#   machine.sh WORLD switch SWITCH [ADDRESS/LENGTH]     an L2 of its own; with an address the switch is a host in it, too
#   machine.sh WORLD switch-here SWITCH ADDRESS/LENGTH [nat]  an L2 that this machine is in: a bridge named WORLD-SWITCH; with nat it leads on
#   machine.sh WORLD router ROUTER LINK... [nat=SWITCH] a network namespace that forwards between switches, and hides others from nat=SWITCH
#   machine.sh WORLD boot MACHINE DISK LINK... [via=ADDRESS] [dns=ADDRESS] [root=DIR]   DISK: a directory, made where it is missing;
#                                                       root: what it is installed from instead of this machine's own root
#   machine.sh WORLD exec MACHINE COMMAND...            runs in it
#   machine.sh WORLD off MACHINE                        a power cut: nothing is asked
#   machine.sh WORLD cut|heal MACHINE SWITCH            pulls the cable at the switch, puts it back
#   machine.sh WORLD list                               the machines that run
#   machine.sh WORLD clear                              ends and removes all of it (disks stay), also what a killed run left
#
# LINK is SWITCH=ADDRESS/LENGTH: an interface eth0, eth1, ... in the order given.
set -eu
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

TOP=skiff-machines
# Held while the top is filled or removed, which worlds share.
LOCK=/run/$TOP.lock
# Between looks at whether killed processes have left their cgroup, and how often.
PAUSE=0.05
TRIES=200

die() { printf 'machine: %s\n' "$*" >&2; exit 1; }

# The roots of all cgroup trees, a line each: one where it is version 2.
trees() { awk '($3 == "cgroup" || $3 == "cgroup2") && $2 ~ "^/sys/fs/cgroup" { print $2 }' /proc/mounts | sort -u; }

# dir: a cgroup below which processes may be. A new cpuset has no cpus, and takes no processes before it has.
make_cgroup() {
    mkdir -p "$1"
    for file in cpuset.cpus cpuset.mems; do
        [ -e "$1/cgroup.clone_children" ] && [ -e "$1/$file" ] && [ -z "$(cat "$1/$file")" ] || continue
        cat "$1/../$file" >"$1/$file"
    done
}

# path: this process into that cgroup of every tree.
enter() {
    (
        flock 8
        for tree in $(trees); do
            at=$tree
            for part in $(echo "$1" | tr / ' '); do at=$at/$part; make_cgroup "$at"; done
        done
    ) 8>"$LOCK"
    for tree in $(trees); do echo 0 >"$tree/$1/cgroup.procs"; done
}

# path: the processes in that cgroup and below it, in whatever tree.
processes() {
    for tree in $(trees); do
        [ ! -d "$tree/$1" ] || find "$tree/$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true
    done | sort -un
}

# path: kills what is there, and removes the cgroups.
end_cgroup() {
    tries=0
    while pids=$(processes "$1") && [ -n "$pids" ]; do
        # shellcheck disable=SC2086  # a list of numbers; those that have just gone are no failure
        kill -9 $pids 2>/dev/null || true
        tries=$((tries + 1))
        [ $tries -lt $TRIES ] || die "processes in cgroup $1 do not end: $pids"
        sleep $PAUSE
    done
    for tree in $(trees); do
        [ ! -d "$tree/$1" ] || find "$tree/$1" -depth -type d -exec rmdir {} +
    done
}

# machine: the first process of a machine that runs, as this machine numbers it.
init_of() {
    for pid in $(processes "$TOP/$WORLD/$1"); do
        [ "$(awk '/^NSpid:/ { print NF - 1, $NF }' "/proc/$pid/status" 2>/dev/null)" = "$LEVEL 1" ] || continue
        echo "$pid"
        return 0
    done
    return 1
}

# How deep a machine's PID namespace is: one below ours.
LEVEL=$(awk '/^NSpid:/ { print NF }' /proc/self/status)

has_netns() { [ -e "/run/netns/$WORLD-$1" ]; }

make_netns() {
    has_netns "$1" && die "there is a $1 in $WORLD already"
    ip netns add "$WORLD-$1"
    ip -n "$WORLD-$1" link set lo up
}

# netns index link: an interface ethINDEX there, its other end in the switch.
plug() {
    switch=${3%%=*} address=${3#*=} end=$1-eth$2
    # Names of interfaces are short; machines' are not.
    [ ${#end} -le 15 ] || end=p$(printf %s "$end" | cksum | cut -d ' ' -f 1)
    if has_netns "$switch"; then
        ip link add "eth$2" netns "$WORLD-$1" type veth peer name "$end" netns "$WORLD-$switch"
        ip -n "$WORLD-$switch" link set "$end" master switch up
    elif [ -e "/sys/class/net/$WORLD-$switch" ]; then
        end=$(printf '%.15s' "$WORLD-$end")
        ip link add "eth$2" netns "$WORLD-$1" type veth peer name "$end"
        ip link set "$end" master "$WORLD-$switch" up
    else
        die "there is no switch $switch in $WORLD"
    fi
    # Found again by cut and heal.
    ip -n "$WORLD-$1" link set "eth$2" alias "$switch $end"
    ip -n "$WORLD-$1" address add "$address" brd + dev "eth$2"
    ip -n "$WORLD-$1" link set "eth$2" up
}

switch() {
    make_netns "$1"
    ip -n "$WORLD-$1" link add switch type bridge
    ip -n "$WORLD-$1" link set switch up
    [ -z "${2:-}" ] || ip -n "$WORLD-$1" address add "$2" brd + dev switch
}

switch_here() {
    [ -e "/sys/class/net/$WORLD-$1" ] || ip link add "$WORLD-$1" type bridge
    ip address replace "$2" brd + dev "$WORLD-$1"
    ip link set "$WORLD-$1" up
    [ "${3:-}" = nat ] || return 0
    echo 1 >/proc/sys/net/ipv4/ip_forward
    rule nat POSTROUTING -s "$2" ! -o "$WORLD-$1" -j MASQUERADE
    # Others' policy may be to forward nothing.
    rule filter FORWARD -i "$WORLD-$1" -j ACCEPT
    rule filter FORWARD -o "$WORLD-$1" -j ACCEPT
}

# table chain rule...: once. Found again by the comment.
rule() {
    table=$1 chain=$2
    shift 2
    iptables -t "$table" -C "$chain" -m comment --comment "$WORLD" "$@" 2>/dev/null || iptables -t "$table" -A "$chain" -m comment --comment "$WORLD" "$@"
}

# All that rule made.
end_rules() {
    command -v iptables >/dev/null || return 0
    for table in nat filter; do
        iptables -t $table -S 2>/dev/null | grep -e "--comment $WORLD " | sed 's/^-A/-D/' | while read -r line; do
            # shellcheck disable=SC2086  # words, none of them quoted
            iptables -t $table $line
        done
    done
}

router() {
    name=$1
    shift
    make_netns "$name"
    index=0
    for link in "$@"; do
        case $link in
            nat=*)
                out=$(ip -n "$WORLD-$name" -o link | awk -v s="${link#nat=}" '{ for (i = 1; i < NF; i++) if ($i == "alias" && $(i + 1) == s) { sub("@.*|:", "", $2); print $2 } }')
                [ -n "$out" ] || die "router $name has no link to switch ${link#nat=} yet: name it before nat="
                ip netns exec "$WORLD-$name" iptables -t nat -A POSTROUTING -o "$out" -j MASQUERADE
                # From outside nothing comes in that was not asked for.
                ip netns exec "$WORLD-$name" iptables -A FORWARD -i "$out" -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP
                ;;
            *) plug "$name" $index "$link"; index=$((index + 1)) ;;
        esac
    done
    ip netns exec "$WORLD-$name" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

boot() {
    name=$1 disk=$2
    shift 2
    init_of "$name" >/dev/null && die "$name runs already"
    # What a power cut left of it.
    off "$name"
    mkdir -p "$disk/root" "$disk/work" "$disk/skiff" "$disk/mnt"
    disk=$(cd "$disk" && pwd -P)
    : >"$disk/resolv.conf"
    echo / >"$disk/lower"
    [ -e "$disk/machine-id" ] || tr -d - </proc/sys/kernel/random/uuid >"$disk/machine-id"
    make_netns "$name"
    index=0
    for link in "$@"; do
        case $link in
            via=*) ip -n "$WORLD-$name" route add default via "${link#via=}" ;;
            root=*) echo "${link#root=}" >"$disk/lower" ;;
            dns=*) echo "nameserver ${link#dns=}" >>"$disk/resolv.conf" ;;
            *) plug "$name" $index "$link"; index=$((index + 1)) ;;
        esac
    done
    rm -f "$disk/up"
    mkfifo -m 600 "$disk/up"
    # Its cgroups are entered before the namespace is made, so that the machine's trees begin there.
    (
        enter "$TOP/$WORLD/$name"
        exec setsid nsenter --net="/run/netns/$WORLD-$name" unshare --cgroup \
            "$0" "$WORLD" inside "$name" "$disk" </dev/null >"$disk/boot.log" 2>&1
    ) &
    # The end of the pipe without a word: it failed.
    read -r up <"$disk/up" || die "$name did not boot: $(cat "$disk/boot.log")"
    [ "$up" = up ] || die "$name did not boot: $up"
}

# In its cgroups and its network: the other namespaces.
inside() {
    name=$1 disk=$2
    exec 9>"$disk/up"
    # Version 2 wants no processes where others are below.
    for tree in $(trees); do
        make_cgroup "$tree/$TOP/$WORLD/$name/init"
        echo 0 >"$tree/$TOP/$WORLD/$name/init/cgroup.procs"
    done
    exec unshare --mount --propagation private --uts --ipc --pid --fork "$0" "$WORLD" init "$name" "$disk"
}

# The first process of the machine.
init() {
    name=$1 disk=$2
    root=$disk/mnt
    hostname "$name"
    mounts=$(awk '$3 ~ /^cgroup2?$/ && $2 ~ "^/sys/fs/cgroup" { print $2, $3, $4 }' /proc/mounts)
    mount -t overlay overlay -o "lowerdir=$(cat "$disk/lower"),upperdir=$disk/root,workdir=$disk/work" "$root"
    mkdir -p "$root/var/lib/skiff" "$root/.before"
    mount --bind "$disk/skiff" "$root/var/lib/skiff"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    for dir in run var/lib/cni; do
        mkdir -p "$root/$dir"
        mount -t tmpfs -o mode=755 tmpfs "$root/$dir"
    done
    mkdir -p "$root/run/lock" "$root/run/netns"
    own_cgroups "$root" "$mounts"
    mkdir -p "$root/etc"
    rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$root/etc/machine-id"
    cp "$disk/resolv.conf" "$root/etc/resolv.conf"
    cp "$disk/machine-id" "$root/etc/machine-id"
    echo "$name" >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >"$root/etc/hosts"
    cd "$root"
    pivot_root . .before
    umount -l /.before
    rmdir /.before
    # As systemd does: what is mounted for a container shows in others.
    mount --make-rshared /
    echo up >&9
    exec 9>&-
    # Orphans come to us, and are waited for.
    while :; do
        sleep 86400 &
        wait $! || true
    done
}

# root mounts: the trees as seen from the machine's own cgroups. A tree of a machine that has version 1 has the controllers that it had outside.
own_cgroups() {
    case $2 in
        "/sys/fs/cgroup cgroup2 "*) mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"; return 0 ;;
    esac
    mount -t tmpfs -o mode=755 tmpfs "$1/sys/fs/cgroup"
    echo "$2" | while read -r at kind options; do
        mkdir -p "$1$at"
        if [ "$kind" = cgroup2 ]; then
            mount -t cgroup2 cgroup2 "$1$at"
        else
            own=$(echo "$options" | tr , '\n' | grep -vE '^(rw|ro|no[a-z]+|relatime|xattr|clone_children|release_agent=.*)$' | paste -sd ,)
            case $own in name=*) own=none,$own ;; esac
            mount -t cgroup -o "$own" cgroup "$1$at"
        fi
    done
}

run() {
    name=$1
    shift
    pid=$(init_of "$name") || die "$name does not run"
    enter "$TOP/$WORLD/$name/init"
    exec nsenter --target "$pid" --all -- "$@"
}

off() {
    end_cgroup "$TOP/$WORLD/$1"
    ! has_netns "$1" || end_netns "$WORLD-$1"
}

# name: its links first. The kernel empties a namespace some time after it was deleted, and their other ends would stand in the way until then.
end_netns() {
    for link in $(ip -n "$1" -o link show type veth | awk -F '[:@ ]+' '{ print $2 }'); do ip -n "$1" link delete "$link"; done
    ip netns delete "$1"
}

# up|down machine switch
cable() {
    line=$(ip -n "$WORLD-$2" -o link | sed -n "s/.*alias $3 \([^ ]*\).*/\1/p")
    [ -n "$line" ] || die "$2 has no link to $3"
    if has_netns "$3"; then ip -n "$WORLD-$3" link set "$line" "$1"; else ip link set "$line" "$1"; fi
}

list() {
    for tree in $(trees | head -n 1); do
        for dir in "$tree/$TOP/$WORLD"/*/; do
            name=$(basename "$dir")
            [ -d "$dir" ] && init_of "$name" >/dev/null || continue
            echo "$name"
        done
    done
}

clear() {
    end_cgroup "$TOP/$WORLD"
    (
        flock 8
        for tree in $(trees); do
            # Other worlds may have theirs there.
            rmdir "$tree/$TOP" 2>/dev/null || true
        done
    ) 8>"$LOCK"
    for path in /run/netns/"$WORLD"-*; do
        [ ! -e "$path" ] || end_netns "$(basename "$path")"
    done
    for path in /sys/class/net/"$WORLD"-*; do
        [ ! -e "$path" ] || ip link delete "$(basename "$path")"
    done
    end_rules
}

[ $# -ge 2 ] || die "usage: machine.sh WORLD switch|switch-here|router|boot|exec|off|cut|heal|list|clear ..."
WORLD=$1 verb=$2
shift 2
# Interfaces here are named after it: it is short, and nobody else's prefix.
case $WORLD in
    *[!a-z0-9]* | '' | ??????????*) die "the name of a world has up to nine of a-z and 0-9" ;;
esac
case $verb in
    switch | router | boot | inside | init | off | list | clear) "$verb" "$@" ;;
    switch-here) switch_here "$@" ;;
    exec) run "$@" ;;
    cut) cable down "$@" ;;
    heal) cable up "$@" ;;
    *) die "no such verb: $verb" ;;
esac
