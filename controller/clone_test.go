package controller_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/bridgeport"
	"hatchery/internal/enrol"
)

// A call is a boot that is heard after so many seconds.
func TestWhoSpeaksForASlot(t *testing.T) {
	const same, ready, down = true, true, false
	type call struct {
		at       int
		boot     string
		same, up bool   // the same node; the former node is ready
		want     string // speaks, waits, cloned; with ! the former challenger is refuted
	}
	tests := []struct {
		summary string
		calls   []call
	}{
		{"the first", []call{{0, "a", !same, down, "speaks"}, {20, "a", same, ready, "speaks"}}},
		{"a reboot", []call{{0, "a", !same, down, "speaks"}, {5, "b", same, ready, "speaks"}, {25, "b", same, ready, "speaks"}}},
		{"a reboot whose engine comes up late", []call{{0, "a", !same, down, "speaks"}, {5, "b", !same, ready, "waits"},
			{10, "b", !same, ready, "waits"}, {15, "b", same, ready, "speaks"}}},
		{"a card rebuilt at leisure", []call{{0, "a", !same, down, "speaks"}, {300, "b", !same, down, "speaks"}}},
		{"a card rebuilt at leisure, its entry ready for whatever reason", []call{{0, "a", !same, down, "speaks"}, {61, "b", !same, ready, "speaks"}}},
		{"a card rebuilt in a moment", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, ready, "waits"},
			{6, "b", !same, ready, "waits"}, {18, "b", !same, down, "speaks"}, {20, "b", same, ready, "speaks"}}},
		{"a card rebuilt in a moment, its entry gone already", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, down, "speaks"}}},
		{"a card rebuilt in a moment, its entry ready for ever", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, ready, "waits"},
			{59, "b", !same, ready, "waits"}, {60, "b", !same, ready, "speaks"}}},
		{"rebuilt twice in a moment", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, ready, "waits"},
			{6, "c", !same, ready, "waits"}, {18, "c", !same, down, "speaks"}}},
		{"a copied card beside the first", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, ready, "waits"},
			{10, "a", same, ready, "speaks!"}, {13, "b", !same, ready, "cloned"}, {30, "a", same, ready, "speaks"}, {33, "b", !same, ready, "cloned"}}},
		{"a copied card, the first's engine down", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, ready, "waits"},
			{10, "a", same, ready, "speaks!"}, {13, "b", !same, down, "cloned"}}},
		{"a copied card, the first taken out at last", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, ready, "waits"},
			{10, "a", same, ready, "speaks!"}, {40, "b", !same, ready, "cloned"}, {70, "b", !same, down, "speaks"}}},
		{"a copied card that claims the first's node", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, ready, "waits"},
			{10, "a", same, ready, "speaks!"}, {13, "b", same, ready, "cloned"}}},
		{"a card copied with Docker's folder", []call{{0, "a", same, ready, "speaks"}, {3, "b", same, ready, "speaks"}, {20, "a", same, ready, "cloned"},
			{23, "b", same, ready, "speaks"}, {900, "a", same, ready, "cloned"}}},
		{"a reboot after a clone was found", []call{{0, "a", !same, down, "speaks"}, {3, "b", !same, ready, "waits"},
			{10, "a", same, ready, "speaks!"}, {15, "c", same, ready, "speaks"}, {16, "b", !same, ready, "waits"}, {17, "c", same, ready, "speaks!"}, {18, "b", !same, ready, "cloned"}}},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			slot, began := controller.NewVoices(), time.Now()
			for i, c := range test.calls {
				if have := slot.Hear(c.boot, c.same, c.up, began.Add(time.Duration(c.at)*time.Second)); have != c.want {
					t.Fatalf("call %d, of boot %s after %d s: %s, not %s", i+1, c.boot, c.at, have, c.want)
				}
			}
		})
	}
}

func TestAClone(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	copied := c.card(1)
	if a, err := copied.ask(); err != nil || a.Action != enrol.Wait || a.RetryAfterS == 0 {
		t.Fatalf("at first the copy is answered %+v, %v", a, err)
	}
	if c.alarms() != "" {
		t.Fatal("an alarm before anything is clear: " + c.alarms())
	}
	if _, err := k.tell("steady"); err != nil {
		t.Fatal(err)
	}
	if c.alarms() != "p1 clone" {
		t.Errorf("the alarms are %q when the first card is heard again", c.alarms())
	}
	for range 2 {
		if _, err := copied.ask(); code(err) != "clone" {
			t.Errorf("the copy is answered %v", err)
		}
		if _, err := copied.tell("docker"); code(err) != "clone" {
			t.Errorf("the copy's report is answered %v", err)
		}
	}
	if _, err := k.tell("steady"); err != nil {
		t.Errorf("the first card is refused: %v", err)
	}
	if v := c.view(); c.alarms() != "p1 clone" || v.Slots[0].NodeID != "node1" {
		t.Errorf("alarms %q, slot %+v", c.alarms(), v.Slots[0])
	}
	c.settled("node1 active ready" + p1Labels)

	// The first card goes, and the other may have its place.
	k.down()
	c.end()
	c.options.Times.Alive = time.Nanosecond
	c.start()
	copied.calls = c.client(copied.id, address(1))
	copied.up()
	c.settled("node2 active ready" + p1Labels)
	if c.alarms() != "p1 clone" {
		t.Errorf("the alarms are %q after a restart", c.alarms())
	}
	if err := controller.Dial(c.options.Socket).ClearAlarms(t.Context()); err != nil || c.alarms() != "" {
		t.Errorf("clearing them: %v, left: %q", err, c.alarms())
	}
	// A power cut brings none back.
	if data, err := os.ReadFile(filepath.Join(c.options.StateDir, "registry.json")); err != nil || strings.Contains(string(data), "alarms") {
		t.Errorf("the registry still has them: %v\n%s", err, data)
	}
}

// A service that was started again has not heard anybody yet, and does not
// take that for silence.
// A card in a loop, or worse: a slot that calls as often as it may, with another
// boot every time or with none of the swarm, has the controller's card written
// to now and then, and leaves room for others' events.
func TestACardInALoop(t *testing.T) {
	c := newCluster(t, 2).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	written := func() (n int) {
		place := filepath.Join(c.options.StateDir, "registry.json")
		var last os.FileInfo
		for i := range 45 {
			k.boot = fmt.Sprintf("again-%d", i)
			if _, err := k.ask(); err != nil && code(err) != "too-many-calls" && code(err) != "clone" {
				t.Fatal(err)
			}
			if now, err := os.Stat(place); err != nil {
				t.Fatal(err)
			} else if last == nil || !os.SameFile(last, now) {
				n, last = n+1, now
			}
			time.Sleep(100 * time.Millisecond) // about as often as a slot may
		}
		return n
	}
	if n := written(); n > 26 {
		t.Errorf("new boots had the registry written %d times", n)
	}
	// The same boot, that gets a token every time.
	k = c.card(2)
	k.ask()
	events := func() (n int) {
		if err := controller.Dial(c.options.Socket).Events(t.Context(), false, func(e controller.Event) error {
			if e.Slot == 2 && e.Kind == controller.EventJoin {
				n++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := events()
	for range 20 {
		if _, err := k.ask(); err != nil {
			t.Fatal(err)
		}
	}
	if after := events(); after != before || before != 1 {
		t.Errorf("%d events of its joins, and %d after 20 more", before, after)
	}
}

// Two cards of one slot are plugged in, and the bridge sees two ports with the
// slot's MAC address: an alarm, while the slot's own card goes on. A card of
// another slot behind such a port is behind the wrong one.
func TestTwoPortsOfOneSlot(t *testing.T) {
	c := newCluster(t, 2)
	c.options.Ports = func(context.Context, netip.Addr) (int, bool, error) {
		return 0, false, fmt.Errorf("asking the bridge: %w", &bridgeport.SharedError{Slot: 1, Ports: []string{"ethpi1", "usb1"}})
	}
	c.start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	if _, err := c.card(2).tell("link"); code(err) != "wrong-address" {
		t.Errorf("another slot's card behind a port of p1's is answered %v", err)
	}
	v := c.view()
	if c.alarms() != "p1 clone, p2 wrong-address" || !strings.Contains(v.Alarms[0].Detail, "ethpi1 and usb1") {
		t.Errorf("the alarms are %q: %+v", c.alarms(), v.Alarms)
	}
}

func TestACloneAfterARestart(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	c.end()
	c.start()
	if a, err := c.card(1).ask(); err != nil || a.Action != enrol.Wait {
		t.Errorf("a copy is answered %+v, %v", a, err)
	}
}

func TestAReboot(t *testing.T) {
	c := newCluster(t, 1).start()
	k := c.card(1)
	k.up()
	c.settled("node1 active ready" + p1Labels)
	for i := range 5 {
		member := k.member
		k.reboot()
		k.member = enrol.SwarmState{}
		for _, step := range []string{"link", "clock"} {
			if _, err := k.tell(step); err != nil {
				t.Fatal(err)
			}
		}
		k.member = member
		k.up()
		if k.member.NodeID != "node1" || c.alarms() != "" || strings.Contains(fmt.Sprint(c.view().Slots), "refused") {
			t.Fatalf("reboot %d: node %s, alarms %q", i, k.member.NodeID, c.alarms())
		}
	}
	c.settled("node1 active ready" + p1Labels)
}
