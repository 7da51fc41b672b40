package overlays_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/testtool"
	"hatchery/overlays"
)

// The tests in this file build the network plan out of the rendered files:
// the real systemd-networkd, nft, iptables and dnsmasq in namespaces, with
// cables between them that stand for the USB links and the LAN.

// TestMain makes the test binary its own helper inside of the namespaces.
func TestMain(m *testing.M) {
	if what := os.Getenv("HATCHERY_TEST_HELPER"); what != "" {
		if err := help(what, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func help(what string, args []string) error {
	switch what {
	case "serve": // answers every datagram with its sender's address
		conn, err := net.ListenPacket("udp4", args[0])
		if err != nil {
			return err
		}
		defer conn.Close()
		buf := make([]byte, 64)
		for {
			_, from, err := conn.ReadFrom(buf)
			if err != nil {
				return err
			}
			host, _, err := net.SplitHostPort(from.String())
			if err != nil {
				return err
			}
			// To a sender without a route back there is no answer, and the
			// next one may have one.
			_, _ = conn.WriteTo([]byte(host), from)
		}
	case "ask":
		tries, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		for range tries {
			conn, err := net.Dial("udp4", args[0])
			if err != nil {
				return err
			}
			buf := make([]byte, 64)
			_, err = conn.Write([]byte("?"))
			if err == nil {
				err = conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
			}
			n := 0
			if err == nil {
				n, err = conn.Read(buf)
			}
			conn.Close()
			if err == nil {
				fmt.Printf("%s", buf[:n])
				return nil
			}
		}
		fmt.Print("no answer")
		return nil
	case "resolve":
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "udp4", args[0])
		}}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		// A final dot keeps this machine's own search list out of it.
		addrs, err := resolver.LookupHost(ctx, strings.TrimSuffix(args[1], ".")+".")
		if err != nil {
			fmt.Print("unknown")
			return err
		}
		fmt.Print(strings.Join(addrs, " "))
		return nil
	}
	return fmt.Errorf("no helper %q", what)
}

// needNetwork names what the machine lacks for these tests.
func needNetwork(t *testing.T) {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"unshare", "nsenter", "ip", "ss", "nft", "iptables", "dnsmasq"} {
		testtool.Need(t, tool)
	}
	for _, program := range []string{"/lib/systemd/systemd-networkd", "/lib/systemd/systemd-sysctl"} {
		if _, err := os.Stat(program); err != nil {
			testtool.Missing(t, program)
		}
	}
	for what, probe := range map[string]string{
		"network namespaces":                  "true",
		"bridges and veth in the kernel":      "ip link add name b0 type bridge && ip link add name v0 type veth peer name w0",
		"br_netfilter in the kernel":          "ip link add name b0 type bridge && test -e /proc/sys/net/bridge/bridge-nf-call-iptables",
		"nftables' NAT in the kernel":         "printf 'table ip t {\\nchain c {\\ntype nat hook postrouting priority srcnat\\nmasquerade\\n}\\n}\\n' | nft -f -",
		"nftables' bridge family in kernel":   "printf 'table bridge t {\\nchain c {\\ntype filter hook postrouting priority 0\\narp saddr ip 10.0.0.0/8 drop\\n}\\n}\\n' | nft -f -",
		"nftables' ingress hook in kernel":    "ip link add name v0 type veth peer name w0 && printf 'table netdev t {\\nchain c {\\ntype filter hook ingress device \"v0\" priority 0;\\n}\\n}\\n' | nft -f -",
		"iptables' conntrack match in kernel": "iptables -w -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	} {
		if out, err := exec.Command("unshare", "-n", "-m", "sh", "-euc", probe).CombinedOutput(); err != nil {
			testtool.Missing(t, fmt.Sprintf("%s (%v: %s)", what, err, out))
		}
	}
}

// runScript runs a script of testdata with the rendered roots, and gives what
// it printed. All that it started dies with its process id namespace.
func runScript(t *testing.T, script string, roots map[string]string, env ...string) string {
	t.Helper()
	helper, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(filepath.Join("testdata", script))
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	// networkd and dnsmasq run as users of their own.
	for _, dir := range append([]string{work}, roots["CONTROLLER"], roots["P1"], roots["P2"]) {
		for ; dir != "" && dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "-n", "-m", "-p", "--fork", "--kill-child", "--mount-proc", "sh", "-eu", path)
	cmd.Env = append(append(os.Environ(), "HELPER="+helper, "WORK="+work), env...)
	for name, root := range roots {
		cmd.Env = append(cmd.Env, name+"="+root)
	}
	cmd.WaitDelay = 5 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	logs, err := filepath.Glob(filepath.Join(work, "networkd-*.log"))
	if err != nil || len(logs) == 0 {
		t.Errorf("logs of networkd: %v, %v", logs, err)
	}
	complaint := regexp.MustCompile(`(?i)unknown|ignoring|invalid|failed to parse|not supported|is deprecated`)
	// What older ones say of a link that went, and any in a chroot.
	harmless := regexp.MustCompile(`neighbor for link '\d+' we don't know about|Failed to get cgroup path`)
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if complaint.MatchString(line) && !harmless.MatchString(line) {
				t.Errorf("networkd says: %s", line)
			}
		}
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(log), text)
		}
	}
	if t.Failed() {
		t.Logf("stderr:\n%s", stderr.String())
	}
	return string(out)
}

func TestCNAT(t *testing.T) {
	needNetwork(t)
	got := runScript(t, "cnat.sh", map[string]string{
		"CONTROLLER": layOutVariant(t, exampleData("controller")),
		"P1":         layOutVariant(t, exampleData("p1")),
		"P2":         layOutVariant(t, exampleData("p2")),
	})
	want := `br0: 172.19.181.254/24 00:22:82:ff:fe:fe
forward_delay 0
stp_state 0
default: 172.19.181.254 usb0
ip_forward: 1
node to node, Docker's policy alone: no answer
node to uplink, Docker's policy alone: no answer
-N DOCKER-USER
-A DOCKER-USER -i br0 -j ACCEPT
-A DOCKER-USER -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -j RETURN
node to node: 172.19.181.1
node to controller: 172.19.181.1
node to uplink: 192.168.42.10
LAN to controller: 192.168.42.1
LAN to the swarm: no answer
LAN to inner address: no answer
LAN to node: no answer
LAN to node, without our table: 192.168.42.1
node to uplink, afterwards: 192.168.42.10
rules: 1
node to uplink, without our table: no answer
switched off and on: 192.168.42.10
dnsmasq: syntax check OK.
hammond: 172.19.181.254
carter.chappa.example: 172.19.181.2
p1: 172.19.181.1
upstream.example: 10.9.8.7
nobody: unknown
from the LAN: unknown
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCBRIDGE(t *testing.T) {
	needNetwork(t)
	got := runScript(t, "cbridge.sh", map[string]string{
		"CONTROLLER": layOutVariant(t, exampleData("controller", bridged)),
		"P1":         layOutVariant(t, exampleData("p1", bridged)),
	})
	want := `br0: 02:00:00:00:00:01
forward_delay 0
stp_state 0
default: 192.168.1.1 usb0
search chappa.example
nameserver 192.168.1.1
open, node to impostor: 172.19.181.1
open, impostor to node: 172.19.181.77
open, seen on the LAN: something
node to impostor: no answer
impostor to node: no answer
impostor to controller: no answer
impostor to node, past ARP: no answer
node to impostor, past ARP: no answer
seen on the LAN: nothing
seen on the node: nothing
node to controller: 172.19.181.1
node to LAN: 192.168.1.151
LAN to node: 192.168.1.1
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDhcpcd: bullseye's manager has the uplink, and no link that is
// systemd-networkd's or Docker's.
func TestDhcpcd(t *testing.T) {
	needNetwork(t)
	testtool.Need(t, "dhcpcd")
	for _, test := range []struct {
		summary        string
		edit           []func(*overlays.Data)
		expect, resolv string
		want           string
	}{
		{
			summary: "by DHCP", edit: []func(*overlays.Data){bullseye}, expect: "eth0 wlan0", resolv: "192.168.43.1",
			want: `br0: 172.19.181.254/24
eth0: 192.168.42.100/24
wlan0: 192.168.43.100/24
default: 192.168.42.1 eth0
default: 192.168.43.1 wlan0
nameserver 192.168.42.1
nameserver 192.168.43.1
touched: eth0
touched: wlan0
`,
		},
		{
			summary: "with a fixed address", edit: []func(*overlays.Data){bullseye, static}, expect: "eth0 wlan0", resolv: "192.168.43.1",
			want: `br0: 172.19.181.254/24
eth0: 192.168.42.10/24
wlan0: 192.168.43.100/24
default: 192.168.42.1 eth0
default: 192.168.43.1 wlan0
search chappa.example
nameserver 192.168.42.1
nameserver 192.168.43.1
touched: eth0
touched: wlan0
`,
		},
		{
			summary: "with Wi-Fi beside the bridge", edit: []func(*overlays.Data){bullseye, bridged, wifi}, expect: "wlan0 br0", resolv: "as it was",
			want: `br0: 172.19.181.254/24
br0: 192.168.42.100/24
wlan0: 192.168.43.100/24
default: 192.168.42.1 br0
default: 192.168.43.1 wlan0
# as it was
touched: wlan0
`,
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got := runScript(t, "dhcpcd.sh", map[string]string{"CONTROLLER": layOutVariant(t, exampleData("controller", test.edit...))},
				"EXPECT="+test.expect, "EXPECT_RESOLV="+test.resolv)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
