# The controller between two nodes and an uplink, CNAT.
. "$(dirname "$0")/netns.sh"
for ns in ctl n1 n2 up; do space "$ns"; done
cable ctl eth0 02:00:00:00:00:01 up eth0 02:00:00:00:00:02
cable ctl ethpi1 00:22:82:ff:fe:01 n1 usb0 00:22:82:ff:ff:01
networkd ctl "$CONTROLLER"
networkd n1 "$P1"
networkd n2 "$P2"
# A slot that comes late.
eventually has ctl br0 172.19.181.254/24
cable ctl ethpi2 00:22:82:ff:fe:02 n2 usb0 00:22:82:ff:ff:02

# NetworkManager's part.
ip -n ctl addr add 192.168.42.10/24 dev eth0
ip -n ctl link set eth0 up
ip -n ctl route add default via 192.168.42.1
ip -n up addr add 192.168.42.1/24 dev eth0
ip -n up link set eth0 up

eventually has ctl ethpi1 'master br0'
eventually has ctl ethpi2 'master br0'
eventually has n1 usb0 172.19.181.1/24
eventually has n2 usb0 172.19.181.2/24
eventually sh -c 'ip -n n1 route show default | grep 172.19.181.254'
echo "br0: $(ip -n ctl -br addr show br0 | awk '{print $3}') $(ip -n ctl -o link show br0 | sed 's/.*ether \([^ ]*\).*/\1/')"
ip -n ctl -d link show br0 | grep -o 'forward_delay [0-9]*\|stp_state [0-9]*'
echo "default: $(ip -n n1 route show default | awk '{print $3, $5}')"

# Docker's worst: forwarding found off (so its policy is DROP), bridged frames
# through iptables.
at ctl /lib/systemd/systemd-sysctl "$CONTROLLER/etc/sysctl.d/90-hatchery.conf"
echo "ip_forward: $(at ctl cat /proc/sys/net/ipv4/ip_forward)"
at ctl nft -c -f "$CONTROLLER/etc/hatchery/firewall.nft"
at ctl nft -f "$CONTROLLER/etc/hatchery/firewall.nft"
at ctl nft -f "$CONTROLLER/etc/hatchery/firewall-root.nft"
at ctl sh -c 'echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables'
at ctl iptables -w -P FORWARD DROP
at ctl iptables -w -N DOCKER-USER
at ctl iptables -w -A DOCKER-USER -j RETURN
at ctl iptables -w -I FORWARD -j DOCKER-USER
serve up 192.168.42.1:9999
serve n2 172.19.181.2:9999
serve ctl 172.19.181.254:9999
echo "node to node, Docker's policy alone: $(ask n1 172.19.181.2:9999)"
echo "node to uplink, Docker's policy alone: $(ask n1 192.168.42.1:9999)"
at ctl "$CONTROLLER/usr/lib/hatchery/docker-user"
at ctl "$CONTROLLER/usr/lib/hatchery/docker-user"
at ctl iptables -w -S DOCKER-USER
echo "node to node: $(reach n1 172.19.181.2:9999)"
echo "node to controller: $(reach n1 172.19.181.254:9999)"
echo "node to uplink: $(reach n1 192.168.42.1:9999)"

# A host on the LAN that has the controller for a router, and the swarm's ports.
serve ctl 192.168.42.10:7946
serve ctl 192.168.42.10:9999
ip -n up route add 172.19.180.0/23 via 192.168.42.10
at ctl iptables -w -P FORWARD ACCEPT
echo "LAN to controller: $(reach up 192.168.42.10:9999)"
echo "LAN to the swarm: $(ask up 192.168.42.10:7946)"
echo "LAN to inner address: $(ask up 172.19.181.254:9999)"
echo "LAN to node: $(ask up 172.19.181.2:9999)"
at ctl nft delete table ip hatchery
echo "LAN to node, without our table: $(reach up 172.19.181.2:9999)"
at ctl nft -f "$CONTROLLER/etc/hatchery/firewall.nft"
ip -n up route del 172.19.180.0/23
at ctl iptables -w -P FORWARD DROP

# Docker starts again and makes its tables anew; so do we.
at ctl iptables -w -t nat -F
at ctl nft -f "$CONTROLLER/etc/hatchery/firewall.nft"
echo "node to uplink, afterwards: $(reach n2 192.168.42.1:9999)"
echo "rules: $(at ctl nft list table ip hatchery | grep -c masquerade)"
at ctl nft delete table ip hatchery
echo "node to uplink, without our table: $(ask n2 192.168.42.1:9999)"
at ctl nft -f "$CONTROLLER/etc/hatchery/firewall.nft"

# A slot is switched off and on.
ip -n ctl link del ethpi1
cable ctl ethpi1 00:22:82:ff:fe:01 n1 usb0 00:22:82:ff:ff:01
eventually has ctl ethpi1 'master br0'
eventually has n1 usb0 172.19.181.1/24
eventually sh -c 'ip -n n1 route show default | grep 172.19.181.254'
echo "switched off and on: $(reach n1 192.168.42.1:9999)"

# Names.
at up dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --no-hosts --no-resolv --listen-address=192.168.42.1 \
	--bind-interfaces --address=/upstream.example/10.9.8.7 --log-facility="$WORK/upstream.log" --pid-file &
echo "nameserver 192.168.42.1" >"$CONTROLLER/etc/resolv.conf"
dnsmasq_of ctl "$CONTROLLER"
eventually resolve up 192.168.42.1:53 upstream.example
eventually resolve n1 172.19.181.254:53 hammond.
for name in hammond carter.chappa.example p1 upstream.example nobody; do
	echo "$name: $(resolve n1 172.19.181.254:53 "$name" || true)"
done
echo "from the LAN: $(resolve up 192.168.42.10:53 hammond || true)"
