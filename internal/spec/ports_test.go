package spec_test

import (
	"fmt"
	"strings"
	"testing"

	"hatchery/internal/spec"
)

// TestPorts: where the boards of slots hang that are on no HAT.
func TestPorts(t *testing.T) {
	const head = "name: a\nbase: raspios_lite_armhf\nuser: {password_hash: $6$hatchery$vMJ4wnbRE3YYXAwIjL3sJsTALk.ROHlCL2uBdtRLxjJoljMzFG2bcrwUdRcwb01BCK/EeAQczCmVAV6qvUUMZ0}\n"
	for _, test := range []struct{ summary, slots, want, err string }{
		{"two boards on a hub", "{p1: , p5: {root: netboot, usb: 1-1.3.1}, p252: {root: ephemeral, usb: 1-1.3.2}}", "1: 5:1-1.3.1 252:1-1.3.2", ""},
		{"a card needs none", "{p5: }", "5:", ""},
		{"a card may have one", "{p5: {usb: 2-1}}", "5:2-1", ""},
		{"netboot without one", "{p5: {root: netboot}}", "", "c.yaml:4:20: slots.p5.root: p5 is on no HAT, which has p1 to p4: say where its board hangs, such as `usb: 1-1.3`"},
		{"one of the HAT's, where that is not found", "{p4: {usb: 1-1.3}}", "4:1-1.3", ""},
		{"no path", "{p5: {root: netboot, usb: usb1}}", "", "slots.p5.usb: \"usb1\" is not a USB path"},
		{"twice", "{p5: {usb: 1-1.3}, p6: {usb: 1-1.3}}", "", "slots.p6.usb: 1-1.3 is where the board of p5 hangs"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c, err := spec.Parse("c.yaml", []byte(head+"slots: "+test.slots+"\n"))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "\n") {
					t.Errorf("the error is %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range c.Slots {
				got = append(got, fmt.Sprintf("%d:%s", s.Number, s.USB))
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("the slots are %v, want %s", got, test.want)
			}
		})
	}
}
