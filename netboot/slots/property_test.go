package slots_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/netboot/slots"
)

var kinds = []slots.Kind{
	slots.PowerOn, slots.PowerOff, slots.SeenOn, slots.SeenOff, slots.BootROM, slots.FileServer, slots.File, slots.FileMissing,
	slots.FilesDone, slots.USBGone, slots.USBTrouble, slots.LinkUp, slots.LinkDown, slots.CardUp, slots.CardDown,
	slots.RootAttached, slots.RootDetached, slots.RootRefused, slots.AgentReady, slots.AgentBusy, slots.CardBegun, "nonsense",
}

// but are all kinds but some.
func but(not ...slots.Kind) []slots.Kind {
	var some []slots.Kind
next:
	for _, k := range kinds {
		for _, n := range not {
			if k == n {
				continue next
			}
		}
		some = append(some, k)
	}
	return some
}

func anything(r *rand.Rand, of []slots.Kind) slots.Event {
	texts := []string{"", "a", "b", "kernel.img", "\x00\xff\n", "../../etc/passwd"}
	return slots.Event{
		Kind: of[r.IntN(len(of))], Name: texts[r.IntN(len(texts))], Conn: texts[r.IntN(3)], Reason: texts[r.IntN(len(texts))],
		Bytes: r.Int64N(1<<20) - 100, Total: r.Int64N(1<<20) - 100, Sum: r.Int64N(1<<30) - 100,
		At: time.Now().Add(time.Duration(r.IntN(20)-10) * time.Second),
	}
}

// TestAnyOrder tells boards anything in any order, with and without faults of
// the HAT and people who meddle.
func TestAnyOrder(t *testing.T) {
	for _, test := range []struct {
		summary string
		of      []slots.Kind
		disable bool
		meddle  bool // by hand
		most    int  // power cuts of a slot in two hours that nobody asked for
		least   int
	}{
		// Without being ready, tries are not given back.
		{summary: "never ready", of: but(slots.AgentReady, slots.PowerOn, slots.PowerOff, slots.CardUp), most: 3, least: 1},
		// A slot that is ready has its tries back after five minutes at the earliest.
		{summary: "anything", of: kinds, most: 3 * (1 + 120/5), least: 1},
		{summary: "anything, and by hand", of: kinds, meddle: true, most: 200, least: 1},
		{summary: "disabled", of: but(slots.CardBegun), disable: true, most: 0},
		{summary: "disabled, with a card that is half written and stays so", of: kinds, disable: true, most: 3 * (1 + 120/5), least: 1},
		{summary: "a card", of: []slots.Kind{slots.CardUp, slots.CardDown, slots.AgentBusy, slots.AgentReady, slots.USBTrouble, slots.USBGone}, most: 0},
		{summary: "an agent that is heard", of: []slots.Kind{slots.RootAttached, slots.AgentBusy, slots.LinkUp}, most: 0},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			cuts := 0
			for seed := range uint64(8) {
				synctest.Test(t, func(t *testing.T) { cuts += anyOrder(t, seed, test.of, test.disable, test.meddle, test.most) })
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			if cuts < test.least {
				t.Errorf("no power was ever cut, so nothing was checked")
			}
		})
	}
}

func anyOrder(t *testing.T, seed uint64, of []slots.Kind, disable, meddle bool, most int) int {
	r := rand.New(rand.NewPCG(seed, 1))
	h := newHat(func(string) {})
	h.on[1], h.on[2], h.on[3] = true, true, r.IntN(2) == 0
	b := slots.New(slots.Options{Slots: []int{3, 1, 2}, Power: h})
	if disable {
		for n := range 4 {
			b.Enable(n, false)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	watch, seen := b.Watch(ctx), make(chan int)
	go func() {
		n := 0
		for st := range watch {
			n++
			if r := n % 7; r == 0 {
				time.Sleep(time.Duration(n) * time.Millisecond) // a slow one
			}
			if _, err := json.Marshal(st); err != nil {
				t.Error(err)
			}
		}
		seen <- n
	}()
	asked, off := map[int]int{}, map[int]bool{}
	for n := range 4 {
		b.Tell(n, slots.Event{Kind: of[0], Conn: "a"})
		b.Tell(n, slots.Event{Kind: of[1], Conn: "a"})
	}
	for begin := time.Now(); time.Since(begin) < 2*time.Hour; {
		time.Sleep(time.Duration(r.ExpFloat64() * float64([]time.Duration{time.Millisecond, time.Second, time.Minute}[r.IntN(3)])))
		n := r.IntN(4) // there is no slot 0
		switch {
		case meddle && r.IntN(10) == 0:
			h.breaks([]string{"on", "off", "powered"}[r.IntN(3)], r.IntN(2) == 0)
		case meddle && r.IntN(10) == 0 && n > 0:
			asked[n]++
			switch r.IntN(4) {
			case 0:
				_ = b.SwitchOn(ctx, n)
			case 1:
				if b.SwitchOff(ctx, n) == nil && !off[n] {
					off[n] = true
					was := cut(h, n)
					time.Sleep(3 * time.Hour)
					synctest.Wait()
					if st, _ := b.Status(n); cut(h, n) != was || h.has(n) || st.State != slots.Off {
						t.Errorf("p%d was switched off by hand: %+v, on %v, cut %d times more", n, st, h.has(n), cut(h, n)-was)
					}
					begin = begin.Add(3 * time.Hour)
				}
			case 2:
				_ = b.SwitchOver(ctx, n)
			case 3:
				_ = b.Retry(n)
			}
		default:
			b.Tell(n, anything(r, of))
		}
		for _, st := range b.All() {
			if len(st.Events) > 20 || st.For < 0 || st.Tries > 4 {
				t.Fatalf("status: %+v", st)
			}
		}
	}
	cancel()
	<-done
	if n := <-seen; n < 3 {
		t.Errorf("who follows was told %d times", n)
	}
	total := 0
	for n := 1; n <= 3; n++ {
		got := cut(h, n)
		total += got
		if most := most + asked[n]*4; got > most {
			st, _ := b.Status(n)
			text, _ := json.MarshalIndent(st, "", "  ")
			t.Errorf("p%d's power was cut %d times, more than %d: %s", n, got, most, text)
		}
		c, _ := b.Counters(n)
		if sum := sumOf(c.Phases); sum < 2*time.Hour-time.Minute && !meddle {
			t.Errorf("p%d: the phases are %v long together: %v", n, sum, c.Phases)
		}
	}
	return total
}

func cut(h *hat, n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cut[n]
}

func sumOf(phases map[slots.State]time.Duration) (sum time.Duration) {
	for _, d := range phases {
		sum += d
	}
	return sum
}

// TestEnd: a service that ends in the middle of a power cycle leaves nobody
// without power.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHat(func(string) {})
		strict := strictHat{h}
		b := slots.New(slots.Options{Slots: []int{1}, Power: strict})
		if err := b.SwitchOn(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		time.Sleep(11 * time.Second)
		if h.has(1) {
			t.Fatal("no power cycle has begun")
		}
		cancel()
		if err := <-done; err != context.Canceled || !h.has(1) {
			t.Errorf("Run: %v; power: %v", err, h.has(1))
		}
		if st, _ := b.Status(1); st.State != slots.ROM || st.Tries != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// strictHat heeds contexts.
type strictHat struct{ *hat }

func (h strictHat) On(ctx context.Context, n int) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return h.hat.On(ctx, n)
}

// TestDecide is the policy's table at its edges.
func TestDecide(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	l := slots.DefaultLimits()
	stuck := slots.Standing{Slot: 2, State: slots.ROM, Since: ago(time.Hour), Enabled: true, Switchable: true, Supply: slots.SupplyOn}
	for _, test := range []struct {
		summary string
		edit    func(s *slots.Standing)
		want    string
	}{
		{"stuck", func(s *slots.Standing) {}, "cycle"},
		{"not yet", func(s *slots.Standing) { s.Since = ago(9 * time.Second) }, "in 1s"},
		{"just now", func(s *slots.Standing) { s.Since = ago(10 * time.Second) }, "cycle"},
		{"disabled", func(s *slots.Standing) { s.Enabled = false }, "never"},
		{"busy", func(s *slots.Standing) { s.Busy = true }, "never"},
		{"no power", func(s *slots.Standing) { s.Supply = slots.SupplyOff }, "never"},
		{"no power, owed", func(s *slots.Standing) { s.Supply, s.Owed = slots.SupplyOff, true }, "switch on"},
		{"no power, owed and disabled", func(s *slots.Standing) { s.Supply, s.Owed, s.Enabled = slots.SupplyOff, true, false }, "switch on"},
		{"no power, asked for", func(s *slots.Standing) { s.Supply, s.Asked = slots.SupplyOff, true }, "switch on"},
		{"second try, too early", func(s *slots.Standing) { s.Tries, s.LastTry = 1, ago(50*time.Second) }, "in 10s, reason"},
		{"second try", func(s *slots.Standing) { s.Tries, s.LastTry = 1, ago(time.Minute) }, "cycle"},
		{"third try, too early", func(s *slots.Standing) { s.Tries, s.LastTry = 2, ago(time.Minute) }, "in 4m0s, reason"},
		{"no more tries", func(s *slots.Standing) { s.Tries, s.LastTry = 3, ago(time.Minute) }, "give up"},
		{"no more tries, but asked for", func(s *slots.Standing) { s.Tries, s.LastTry, s.Asked = 3, ago(time.Minute), true }, "cycle"},
		{"cannot be switched", func(s *slots.Standing) { s.Switchable = false }, "give up"},
		{"failed", func(s *slots.Standing) { s.State = slots.Failed }, "never"},
		{"failed off", func(s *slots.Standing) { s.State, s.Supply, s.Owed = slots.Failed, slots.SupplyOff, true }, "never"},
		{"card", func(s *slots.Standing) { s.State = slots.Card }, "never"},
		{"ready", func(s *slots.Standing) { s.State = slots.Ready }, "never"},
		{"ready, with tries to forgive", func(s *slots.Standing) { s.State, s.Tries = slots.Ready, 2 }, "forgive"},
		{"ready for a minute", func(s *slots.Standing) { s.State, s.Tries, s.Since = slots.Ready, 2, ago(time.Minute) }, "in 4m0s"},
		{"grace", func(s *slots.Standing) { s.Grace = now.Add(time.Minute) }, "in 1m0s"},
		{"its agent is heard", func(s *slots.Standing) { s.State, s.Heard = slots.Root, true }, "never"},
		{"its agent is heard, its root not seen", func(s *slots.Standing) {
			s.State, s.Heard, s.LinkUp, s.Rootless, s.LinkedAt = slots.Link, true, true, ago(time.Hour), ago(11*time.Minute)
		}, "in 4m0s"},
		{"unknown, and so is its power", func(s *slots.Standing) { s.State, s.Supply = slots.Unknown, slots.SupplyUnknown }, "never"},
		{"too many boots", func(s *slots.Standing) { s.Since, s.Boots = now, 6 }, "cycle"},
		{"many boots", func(s *slots.Standing) { s.Since, s.Boots = now, 5 }, "in 10s"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := stuck
			test.edit(&s)
			d := l.Decide(s, now)
			got := string(d.Action)
			switch {
			case d.Action == slots.Nothing && d.Next.IsZero():
				got = "never"
			case d.Action == slots.Nothing:
				got = fmt.Sprint("in ", d.Next.Sub(now))
				if d.Reason != "" {
					got += ", reason"
				}
			case d.Reason == "" && d.Action != slots.Forgive:
				t.Error("no reason")
			}
			if got != test.want {
				t.Errorf("%s, want %s (%s)", got, test.want, d.Reason)
			}
		})
	}
}
