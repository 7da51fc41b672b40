# dhcpcd on a controller of bullseye: what it does with which links.
. "$(dirname "$0")/netns.sh"
for ns in ctl up n1 cell; do space "$ns"; done
cable ctl eth0 02:00:00:00:00:01 up eth0 02:00:00:00:00:02
cable ctl ethpi1 00:22:82:ff:fe:01 n1 usb0 00:22:82:ff:ff:01
# Stand for a radio that wpa_supplicant has associated, and for Docker's links.
cable ctl wlan0 02:00:00:00:00:03 cell eth0 02:00:00:00:00:04
ip -n ctl link add name vetha12b345 type veth peer name eth9
ip -n ctl link add name docker0 type bridge
ip -n ctl link add name br-0123456789ab type bridge
for link in vetha12b345 eth9 docker0 br-0123456789ab wlan0; do ip -n ctl link set "$link" up; done
ip -n ctl link set eth9 netns n1
ip -n n1 link set eth9 up

# A DHCP server on every wire: nothing is without an address for want of one.
offer() {
	ip -n "$1" addr add "$3.1/24" dev "$2"
	ip -n "$1" link set "$2" up
	at "$1" dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --port=0 --interface="$2" --bind-interfaces --no-ping \
		--dhcp-range="$3.100,$3.100,1h" --dhcp-option="option:router,$3.1" --dhcp-option="option:dns-server,$3.1" \
		--dhcp-leasefile="$WORK/leases-$1-$2" --log-facility="$WORK/dhcp-$1-$2.log" --pid-file &
}
offer up eth0 192.168.42
offer cell eth0 192.168.43
if [ ! -e "$CONTROLLER/etc/systemd/network/20-hatchery-uplink.network" ]; then
	offer n1 usb0 192.168.44 # else the slots are on the uplink's wire
fi
offer n1 eth9 192.168.45
networkd ctl "$CONTROLLER"
eventually has ctl br0 172.19.181.254/24
eventually has ctl ethpi1 'master br0'

# With no /etc of this machine's to write to.
nsenter --net=/run/netns/ctl unshare -m sh -euc '
	mkdir -p "$1/etc"
	for file in passwd group nsswitch.conf; do cp "/etc/$file" "$1/etc/"; done
	# There is no udev to wait for.
	{ echo nodev; cat "$0/etc/dhcpcd.conf"; } >"$1/etc/dhcpcd.conf"
	echo "# as it was" >"$1/etc/resolv.conf"
	mount --bind "$1/etc" /etc
	mount -t tmpfs tmpfs /run
	mount -t tmpfs tmpfs /var/lib
	mkdir -p /var/lib/dhcpcd
	exec dhcpcd --nobackground --debug --noarp
' "$CONTROLLER" "$WORK" >"$WORK/dhcpcd.log" 2>&1 &
for link in $EXPECT; do eventually has ctl "$link" 'inet .*192\.168\.'; done
eventually grep -q "$EXPECT_RESOLV" "$WORK/etc/resolv.conf"

addresses() {
	ip -n ctl -4 -o addr show | awk '$2 != "lo" {print $2 ": " $4}' | sort
}
addresses
ip -n ctl route show default | awk '{print "default: " $3, $5}' | sort
grep -v '^# Generated\|^# /etc' "$WORK/etc/resolv.conf"
# What it does with a link, it says.
sed -n 's/^\([a-z][-a-z0-9]*\): .*/\1/p' "$WORK/dhcpcd.log" | sort -u | grep -v '^lo$\|^sandbox$' | sed 's/^/touched: /'
grep -i 'unknown option\|invalid\|failed to parse\|unknown keyword' "$WORK/dhcpcd.log" || true
