package placement_test

import (
	"net/netip"
	"strings"
	"testing"

	"hatchery/internal/stack/placement"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ summary, text, want, fault string }{
		{"a label", "node.labels.disk==ssd", "node.labels.disk == ssd", ""},
		{"not", "  node.role !=  manager ", "node.role != manager", ""},
		{"a value with spaces", "engine.labels.os == Raspbian 12", "engine.labels.os == Raspbian 12", ""},
		{"one equals sign", "node.role = manager", "", "is no constraint such as"},
		{"no key", "== x", "", "is no key"},
		{"no value", "node.role ==", "", "is no value"},
		{"quotes", `node.hostname == "p1"`, "", "quotes are not part of it"},
		{"an unknown key", "node.arch == armv6", "", "no node ever meets"},
		{"a label without a name", "node.labels. == x", "", "no node ever meets"},
		{"nothing", "", "", "is no constraint"},
	} {
		have, err := placement.Parse(c.text)
		switch {
		case c.fault == "" && (err != nil || have.String() != c.want):
			t.Errorf("%s: %v, %v", c.summary, have, err)
		case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
			t.Errorf("%s: the error is %v", c.summary, err)
		}
	}
}

func TestHolds(t *testing.T) {
	n := placement.Node{
		ID: "abc", Hostname: "P1", Role: placement.Worker, Addr: netip.MustParseAddr("172.19.181.1"), Machine: "armv6l",
		Labels: map[string]string{"hatchery.arch": "armv6", "Case": "x"}, EngineLabels: map[string]string{"os": "linux"},
	}
	for text, want := range map[string]bool{
		"node.labels.hatchery.arch == ARMv6": true, "node.labels.hatchery.arch != armv6": false, "NODE.LABELS.hatchery.arch == armv6": true,
		"node.labels.case == x": false, "node.labels.none == x": false, "node.labels.none != x": true,
		"engine.labels.os == linux": true, "node.id == abc": true, "node.id == abd": false, "node.hostname == p1": true, "node.hostname != p1": false,
		"node.role == worker": true, "node.role == manager": false, "node.platform.os == linux": true, "node.platform.arch == armv6l": true,
		"node.platform.arch == aarch64": false, "node.ip == 172.19.181.1": true, "node.ip == 172.19.181.0/24": true, "node.ip != 172.19.181.0/24": false, "node.ip == 10.0.0.0/8": false,
	} {
		c, err := placement.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if have := c.Holds(n); have != want {
			t.Errorf("%s: %v", text, have)
		}
	}
}

// TestUnknown: what is not known of a node yet may be anything; labels are
// known.
func TestUnknown(t *testing.T) {
	for text, want := range map[string]bool{
		"node.id == abc": true, "node.hostname == p1": true, "node.role != manager": true, "node.platform.arch == x": true, "node.ip == 10.0.0.1": true,
		"node.labels.a == b": false, "node.platform.os == windows": false,
	} {
		c, err := placement.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if have := c.Holds(placement.Node{}); have != want {
			t.Errorf("%s: %v", text, have)
		}
	}
}

func TestArchitecture(t *testing.T) {
	for _, c := range []struct {
		node placement.Node
		want string
	}{
		{placement.Node{Machine: "armv6l"}, "armv6"},
		{placement.Node{Machine: "armv7l"}, "armv7"},
		{placement.Node{Machine: "armv7l", Labels: map[string]string{"hatchery.arch": "armv6"}}, "armv6"},
		{placement.Node{Machine: "aarch64"}, "arm64"},
		{placement.Node{Arch: "amd64", Machine: "aarch64"}, "amd64"},
		{placement.Node{Machine: "riscv64"}, ""},
	} {
		if have := c.node.Architecture(); have != c.want {
			t.Errorf("%+v: %q", c.node, have)
		}
	}
}
