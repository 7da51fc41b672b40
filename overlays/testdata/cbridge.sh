# The controller between a node and a LAN, CBRIDGE.
. "$(dirname "$0")/netns.sh"
for ns in ctl n1 lan; do space "$ns"; done
cable ctl ethpi1 00:22:82:ff:fe:01 n1 usb0 00:22:82:ff:ff:01
cable ctl eth0 02:00:00:00:00:01 lan eth0 02:00:00:00:00:02
ip -n lan addr add 192.168.1.1/24 dev eth0
# A machine on the LAN that pretends to be of the cluster.
ip -n lan addr add 172.19.181.77/24 dev eth0
ip -n lan link set eth0 up
# What of the cluster's own addresses is seen on the LAN, and on a node of the LAN's.
at lan nft -f - <<'N'
table netdev seen {
	chain inbound {
		type filter hook ingress device "eth0" priority 0;
		ip saddr 172.19.181.0/24 counter
		arp saddr ip 172.19.181.0/24 counter
	}
}
N
seen() {
	at "$1" nft list table netdev seen | grep -o 'packets [0-9]*' | awk '{sum += $2} END {print (sum > 0) ? "something" : "nothing"}'
}
at lan dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --no-hosts --no-resolv --interface=eth0 --bind-interfaces \
	--no-ping --dhcp-range=192.168.1.100,192.168.1.200,1h --dhcp-option=option:router,192.168.1.1 --dhcp-leasefile="$WORK/leases" \
	--dhcp-host=02:00:00:00:00:01,192.168.1.150 --dhcp-host=00:22:82:ff:ff:01,192.168.1.151 \
	--log-facility="$WORK/lan.log" --pid-file &
networkd ctl "$CONTROLLER"
networkd n1 "$P1"
eventually has ctl br0 172.19.181.254/24
eventually has ctl eth0 'master br0'
eventually has ctl ethpi1 'master br0'
# udev's part, whichever link comes first.
ip netns exec ctl sh "$CONTROLLER/usr/lib/hatchery/bridge-mac"
ip netns exec ctl sh "$CONTROLLER/usr/lib/hatchery/bridge-mac"
eventually has ctl br0 192.168.1.150/24
eventually has n1 usb0 192.168.1.151/24
eventually has n1 usb0 172.19.181.1/24
eventually sh -c 'ip -n n1 route show default | grep 192.168.1.1'
eventually grep -q '^DNS=192.168.1.1' "$WORK/run-ctl/netif/state"
echo "br0: $(ip -n ctl -o link show br0 | sed 's/.*ether \([^ ]*\).*/\1/')"
ip -n ctl -d link show br0 | grep -o 'forward_delay [0-9]*\|stp_state [0-9]*'
echo "default: $(ip -n n1 route show default | awk '{print $3, $5}')"
sh "$CONTROLLER/usr/lib/hatchery/resolv" "$WORK/run-ctl/netif/state" "$WORK/resolv.conf"
cat "$WORK/resolv.conf"

serve lan 192.168.1.1:9999
serve lan 172.19.181.77:9998
serve n1 172.19.181.1:9999
serve n1 192.168.1.151:9998
serve ctl 172.19.181.254:9999

# Without the filter the two networks are one.
echo "open, node to impostor: $(reach n1 172.19.181.77:9998)"
echo "open, impostor to node: $(reach lan 172.19.181.1:9999)"
echo "open, seen on the LAN: $(seen lan)"

at ctl nft -c -f "$CONTROLLER/etc/hatchery/firewall.nft"
at ctl nft -f "$CONTROLLER/etc/hatchery/firewall.nft"
at ctl nft -f "$CONTROLLER/etc/hatchery/firewall.nft"
at ctl nft -f "$CONTROLLER/etc/hatchery/firewall-root.nft"
for ns in lan n1; do ip -n "$ns" neigh flush all; done
ip -n ctl neigh flush all
at lan nft flush ruleset
at lan nft -f - <<'N'
table netdev seen {
	chain inbound {
		type filter hook ingress device "eth0" priority 0;
		ip saddr 172.19.181.0/24 counter
		ip daddr 172.19.181.0/24 counter
		arp saddr ip 172.19.181.0/24 counter
		arp daddr ip 172.19.181.0/24 counter
	}
}
N
at n1 nft -f - <<'N'
table netdev seen {
	chain inbound {
		type filter hook ingress device "usb0" priority 0;
		ip saddr 172.19.181.77 counter
		arp saddr ip 172.19.181.77 counter
	}
}
N
echo "node to impostor: $(ask n1 172.19.181.77:9998)"
echo "impostor to node: $(ask lan 172.19.181.1:9999)"
echo "impostor to controller: $(ask lan 172.19.181.254:9999)"
# By hardware address, past ARP, and to a LAN address with a false sender.
ip -n lan neigh replace 172.19.181.1 lladdr 00:22:82:ff:ff:01 dev eth0
echo "impostor to node, past ARP: $(ask lan 172.19.181.1:9999)"
ip -n n1 neigh replace 172.19.181.77 lladdr 02:00:00:00:00:02 dev usb0
echo "node to impostor, past ARP: $(ask n1 172.19.181.77:9998)"
echo "seen on the LAN: $(seen lan)"
echo "seen on the node: $(seen n1)"
echo "node to controller: $(reach n1 172.19.181.254:9999)"
echo "node to LAN: $(reach n1 192.168.1.1:9999)"
echo "LAN to node: $(reach lan 192.168.1.151:9998)"
