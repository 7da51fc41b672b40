package nodefile_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/nodefile"
)

func example() *nodefile.Node {
	return &nodefile.Node{
		Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "hammond", Network: "cnat",
		Address: netip.MustParsePrefix("172.19.181.254/24"), ControllerAddr: netip.MustParseAddr("172.19.181.254"),
		Epoch: 1763769600, Docker: true, Swarm: &nodefile.Swarm{CertExpiry: "8760h0m0s", AddressPool: "10.181.0.0/16"},
		Targets: []nodefile.Target{
			{Name: "controller", Hostname: "hammond", Address: netip.MustParseAddr("172.19.181.254"), Model: "3"},
			{Name: "p1", Slot: 1, Hostname: "oneil", Address: netip.MustParseAddr("172.19.181.1"), Model: "zero", Arch: "armv6", Labels: map[string]string{"disk": "<ssd>"}, Generation: 2},
		},
	}
}

func TestReadsWhatItWrites(t *testing.T) {
	data, err := example().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "node.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := nodefile.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example(), got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if p1, ok := got.Target(1); !ok || p1.Hostname != "oneil" || !got.IsController() || got.Floor().Unix() != 1763769600 {
		t.Errorf("got %+v", p1)
	}
}

func TestRefused(t *testing.T) {
	for _, test := range []struct {
		summary string
		edit    func(*nodefile.Node)
		err     string
	}{
		{"no cluster", func(n *nodefile.Node) { n.Cluster = "" }, "names no cluster"},
		{"another role", func(n *nodefile.Node) { n.Role = "king" }, `role "king"`},
		{"several controllers, and none its own", func(n *nodefile.Node) {
			n.Controllers = []nodefile.OneController{{Name: "controller2", Address: netip.MustParseAddr("192.0.2.2")}}
		}, "which of the controllers is its own"},
		{"a controller without an address", func(n *nodefile.Node) { n.Controllers = []nodefile.OneController{{Name: "controller"}} }, "has no name or no IPv4 address"},
		{"a controller with a slot that is none", func(n *nodefile.Node) {
			n.Controllers = []nodefile.OneController{{Name: "controller", Address: netip.MustParseAddr("192.0.2.2"), Slots: []nodefile.Target{{Name: "p9"}}}}
		}, "has a slot that is none"},
		{"a controller in a slot", func(n *nodefile.Node) { n.Slot = 3 }, "cannot be slot 3"},
		{"a node in none", func(n *nodefile.Node) { n.Role = nodefile.Worker }, "slot 0 is not one of 1 to 252"},
		{"no name", func(n *nodefile.Node) { n.Hostname = "" }, "no host name"},
		{"no address", func(n *nodefile.Node) { n.Address = netip.Prefix{} }, "no IPv4 address"},
		{"no controller", func(n *nodefile.Node) { n.ControllerAddr = netip.MustParseAddr("::1") }, "where the controller is"},
		{"too short a life", func(n *nodefile.Node) { n.Swarm.CertExpiry = "5m" }, "at least 1h"},
		{"too quick a heart", func(n *nodefile.Node) { n.Swarm.Heartbeat = "5ms" }, "from 1s to 2m"},
		{"a heartbeat that is none", func(n *nodefile.Node) { n.Swarm.Heartbeat = "often" }, `swarm.heartbeat "often"`},
		{"a small pool", func(n *nodefile.Node) { n.Swarm.AddressPool = "10.0.0.0/25" }, "not an IPv4 network of /24"},
		{"a slot too far", func(n *nodefile.Node) { n.Targets[1].Slot = 253 }, `target "p1"`},
	} {
		n := example()
		test.edit(n)
		data, err := n.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nodefile.Parse(data); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: error %v, want %q", test.summary, err, test.err)
		}
	}
	if _, err := nodefile.Parse([]byte(`{"cluster": `)); err == nil || !strings.Contains(err.Error(), "byte 12") {
		t.Errorf("half a file: %v", err)
	}
	if _, err := nodefile.Read(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "who this node is") {
		t.Errorf("no file: %v", err)
	}
}

// TestLarge reads the file of as many nodes as there can be, and refuses what
// takes more memory than that.
func TestLarge(t *testing.T) {
	n := example()
	n.Targets = nil
	for i := range 253 {
		labels := map[string]string{}
		for k := range 8 {
			labels[fmt.Sprintf("example.org/a-label-of-a-node-%d", k)] = "and what it is worth"
		}
		n.Targets = append(n.Targets, nodefile.Target{
			Name: fmt.Sprintf("p%d", i), Slot: i, Hostname: strings.Repeat("h", 63), Address: netip.MustParseAddr("172.19.181.1"),
			Model: "zero-2-w", Arch: "arm64", Root: nodefile.RootEphemeral, Generation: 1000, Labels: labels,
		})
	}
	data, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(len(data), "bytes")
	if got, err := nodefile.Parse(data); err != nil || len(got.Targets) != 253 {
		t.Error(err)
	}
	large := new(nodefile.LargeError)
	n.Domain = strings.Repeat("d", nodefile.MaxSize)
	if _, err := n.Marshal(); !errors.As(err, &large) {
		t.Error(err)
	}
	long := append(data, strings.Repeat(" ", nodefile.MaxSize)...)
	if _, err := nodefile.Parse(long); !errors.As(err, &large) || large.Size != int64(len(long)) {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "node.json")
	if err := os.WriteFile(path, long, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := nodefile.Read(path); !errors.As(err, &large) {
		t.Error(err)
	}
	for summary, text := range map[string]string{
		"many":            `{"targets": [{}` + strings.Repeat(",{}", 80_000) + `]}`,
		"many, then none": `{"Targets": [{}` + strings.Repeat(",{}", 80_000) + `], "targets": []}`,
		"many numbers":    `{"targets": [0` + strings.Repeat(",0", 120_000) + `]}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := nodefile.Parse([]byte(text))
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), "more than 300 targets") {
			t.Error(summary, err)
		}
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 16<<20 {
			t.Errorf("%s: %d bytes of memory", summary, taken)
		}
	}
}

func FuzzParse(f *testing.F) {
	data, err := example().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"targets":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := nodefile.Parse(data)
		if err != nil {
			return
		}
		again, err := n.Marshal()
		if large := new(nodefile.LargeError); errors.As(err, &large) {
			return // with the spaces of ours
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nodefile.Parse(again); err != nil {
			t.Errorf("what was read is refused when it is written: %v", err)
		}
	})
}
