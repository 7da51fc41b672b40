package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/spec"
)

// TestPushGoesToTheSlotsController has where images go, and which, where there are
// several controllers.
func TestPushGoesToTheSlotsController(t *testing.T) {
	cluster, err := spec.Parse(filepath.Join(t.TempDir(), "cluster.yaml"), []byte(`
name: homelab
base: raspios_lite_armhf
user: {password_hash: "$6$hatchery$vMJ4wnbRE3YYXAwIjL3sJsTALk.ROHlCL2uBdtRLxjJoljMzFG2bcrwUdRcwb01BCK/EeAQczCmVAV6qvUUMZ0"}
controller: {network: cbridge}
controllers:
- {hostname: hammond, address: 192.168.42.11/24, slots: [p1, p2]}
- {hostname: landry, address: 192.168.42.12/24, slots: [p5]}
- {hostname: oneill, address: 192.168.42.13/24, slots: [p9]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary, on string
		slots       []string
		want        string
	}{
		{"a slot", "", []string{"p5"}, "landry [p5]"},
		{"slots of a HAT", "", []string{"p1", "p2"}, "hammond [p1 p2]"},
		{"slots of two", "", []string{"p1", "p5"}, "p1 is on the HAT of hammond, and p5 on that of landry: push to one controller at a time"},
		{"all of a controller's", "landry", nil, "landry [p5]"},
		{"all of a controller's, by its target", "controller2", nil, "landry [p5]"},
		{"all", "", nil, "there are several controllers, and each has its own slots' images: name one, such as `hatchery push --on hammond`"},
		{"another's slot", "landry", []string{"p1"}, "p1 is on the HAT of hammond, not of landry"},
		{"by another name", "pi@192.168.42.12", []string{"p5"}, "pi@192.168.42.12 [p5]"},
	} {
		p := &pushing{station: station{on: test.on}}
		targets, err := p.targets(cluster, test.slots)
		if err == nil {
			targets, err = p.oneHAT(cluster, targets, len(test.slots) > 0)
		}
		var names []string
		for _, target := range targets {
			names = append(names, target.Name)
		}
		got := fmt.Sprint(p.station.on, " ", names)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %s, want %s", test.summary, got, test.want)
		}
	}
}
