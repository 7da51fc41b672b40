# What the network tests' scripts share. Run as root by
#   unshare -n -m sh -eu SCRIPT
# with HELPER (the test binary), WORK (a scratch folder), and the rendered
# roots of the targets in CONTROLLER, P1, P2.
mount --make-rprivate /
mount -t tmpfs tmpfs /run

# space NAME: a network namespace.
space() {
	ip netns add "$1"
	ip -n "$1" link set lo up
}

# cable NS LINK MAC NS LINK MAC: a cable between two of them. The links have
# their names from the start: networkd learns of a link after udev has named it.
cable() {
	ip link add name "$2" address "$3" netns "$1" type veth peer name "$5" address "$6" netns "$4"
}

# networkd NS ROOT: systemd-networkd with a target's configuration. With /sys
# read-only it knows that no udev runs.
networkd() {
	nsenter --net="/run/netns/$1" unshare -m sh -euc '
		mount -t tmpfs tmpfs /run
		mkdir -p /run/systemd
		mount -t sysfs -o ro sysfs /sys
		mount --bind "$0/etc/systemd" /etc/systemd
		mount --bind "$0/etc/machine-id" /etc/machine-id
		mount --bind "$1" /run/systemd
		exec /lib/systemd/systemd-networkd
	' "$2" "$(mkdir -p "$WORK/run-$1" && echo "$WORK/run-$1")" >"$WORK/networkd-$1.log" 2>&1 &
}

# eventually COMMAND...: until it succeeds, or for 20 seconds.
eventually() {
	tries=200
	until "$@" >/dev/null 2>&1; do
		tries=$((tries - 1))
		if [ "$tries" = 0 ]; then
			echo "never: $*"
			exit 1
		fi
		sleep 0.1
	done
}

# at NS COMMAND...
at() {
	ns=$1
	shift
	nsenter --net="/run/netns/$ns" "$@"
}

# serve NS ADDR: answers on UDP who is asking.
serve() {
	at "$1" env HATCHERY_TEST_HELPER=serve "$HELPER" "$2" &
	eventually at "$1" sh -c "ss -lun | grep -q '$2'"
}

# ask NS ADDR: who do we look like to it?
ask() {
	at "$1" env HATCHERY_TEST_HELPER=ask "$HELPER" "$2" 3
}

# reach NS ADDR: the same of somebody who should answer, and may take long.
reach() {
	at "$1" env HATCHERY_TEST_HELPER=ask "$HELPER" "$2" 60
}

# resolve NS SERVER NAME
resolve() {
	at "$1" env HATCHERY_TEST_HELPER=resolve "$HELPER" "$2" "$3"
}

# has NS LINK TEXT: the link's addresses, or its details, hold the text.
has() {
	{ ip -n "$1" -d link show "$2"; ip -n "$1" addr show "$2"; } | grep -q -- "$3"
}

# dnsmasq_of ROOT: runs the target's name server, out of its rendered root.
dnsmasq_of() {
	sed "s,=/etc/,=$2/etc/," "$2/etc/hatchery/dnsmasq.conf" >"$WORK/dnsmasq.conf"
	dnsmasq --test --conf-file="$WORK/dnsmasq.conf" 2>&1
	at "$1" dnsmasq --keep-in-foreground --conf-file="$WORK/dnsmasq.conf" --user=root --log-facility="$WORK/dnsmasq.log" &
}
