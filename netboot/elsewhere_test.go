package netboot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/netboot"
	"hatchery/netboot/slots"
)

// A fourHAT switches the four slots of its own, as a real one does.
type fourHAT struct{ *hat }

func (fourHAT) Switches(slot int) bool { return slot <= 4 }

func (h fourHAT) Powered(ctx context.Context, slot int) (bool, error) {
	if slot > 4 {
		return false, errors.New("no such slot")
	}
	return h.hat.Powered(ctx, slot)
}

// TestElsewhere boots slots 5 and 12, whose boards hang on a hub that is no HAT's: they
// are found by their ports, whether the HAT's wiring is known or not. Their power is
// refused with the reason, and a reset waits for somebody who has pulled them out.
func TestElsewhere(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("wiring lost: %v", lost), func(t *testing.T) {
			w := newWorld(t)
			state, err := w.store.State(1)
			if err != nil || state.Next == nil {
				t.Fatal(state, err)
			}
			w.hat.lost = lost
			w.node.Netboot.Ports = map[int]string{}
			for _, n := range []int{5, 12} {
				w.node.Netboot.Ports[n] = path(n)
				w.node.Targets = append(w.node.Targets, nodefile.Target{Name: clusterctrl.SlotName(n), Slot: n, Hostname: fmt.Sprint("far", n), Model: "zero", Root: nodefile.RootNetboot})
				w.assign(n, state.Next.Base)
			}
			w.change = func(o *netboot.Options) { o.Power = fourHAT{w.hat} }
			w.serve()
			for _, n := range []int{5, 12} {
				if err := w.hat.On(t.Context(), n); err != nil { // somebody plugs it in
					t.Fatal(err)
				}
			}
			for _, n := range []int{5, 12} {
				boot := w.hasFiles(n)
				if line := string(w.hat.boards[n].Received()[boot.Cmdline]); !strings.Contains(line, fmt.Sprintf("hatchery.slot=%d ", n)) {
					t.Errorf("p%d has the command line %q", n, line)
				}
				r := w.attach(n)
				r.put(farOff, "mine")
				for _, do := range []func(context.Context, int) error{w.service.Cycle, w.service.On, w.service.Off, w.service.Retry} {
					if err := do(t.Context(), n); !errors.Is(err, slots.ErrNoPower) || !strings.Contains(err.Error(), "on no ClusterHAT") {
						t.Errorf("p%d is switched: %v", n, err)
					}
				}
				if err := w.service.Reset(t.Context(), n); !errors.Is(err, slots.ErrNoPower) || !strings.Contains(err.Error(), "pull it out") {
					t.Errorf("p%d, which runs, is reset: %v", n, err)
				}
				if got := r.text(farOff); got != "mine" {
					t.Errorf("its disk has %q", got)
				}
				if err := w.service.Stopped(t.Context(), n); err != nil {
					t.Fatal(err)
				}
				if err := w.service.Reset(t.Context(), n); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestSecondHAT boots slot 5 from the first connector of the HAT that the second of
// several controllers has, whether the HAT's wiring is found or learned from the board.
func TestSecondHAT(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("wiring lost: %v", lost), func(t *testing.T) {
			w := newWorld(t)
			state, err := w.store.State(1)
			if err != nil || state.Next == nil {
				t.Fatal(state, err)
			}
			w.hat.lost, w.hat.first, w.node.HAT = lost, 5, &nodefile.HAT{First: 5}
			w.node.Targets = slices.DeleteFunc(w.node.Targets, func(t nodefile.Target) bool { return t.Slot != 0 })
			w.node.Targets = append(w.node.Targets, nodefile.Target{Name: "p5", Slot: 5, Hostname: "carter", Model: "zero", Root: nodefile.RootNetboot})
			w.assign(5, state.Next.Base)
			w.serve()
			if err := w.hat.On(t.Context(), 5); err != nil {
				t.Fatal(err)
			}
			boot := w.hasFiles(5)
			if line := string(w.hat.boards[5].Received()[boot.Cmdline]); !strings.Contains(line, "hatchery.slot=5 ") {
				t.Errorf("p5 has the command line %q", line)
			}
		})
	}
}
