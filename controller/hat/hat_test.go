package hat_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/controller/hat"
	"hatchery/netboot/slots"
)

var _ slots.Power = (*hat.HAT)(nil)

func TestDetect(t *testing.T) {
	for _, test := range []struct {
		summary    string
		properties map[string]string
		want, err  string
		none       bool
	}{
		{summary: "v2.6", properties: map[string]string{"product": "ZC4:ClusterHAT\x00", "product_ver": "0x0026\x00", "uuid": "a\x00"}, want: "2.6 a"},
		{summary: "v1.3", properties: map[string]string{"product": "ZC4:ClusterHAT\x00", "product_ver": "0x0013\x00"}, want: "1.3 "},
		{summary: "v3.0", properties: map[string]string{"product": "ZC4:ClusterHAT", "product_ver": "0x0030"}, want: "3.0 "},
		{summary: "without 0x", properties: map[string]string{"product": "ZC4:ClusterHAT\x00", "product_ver": "0026\x00"}, want: "2.6 "},
		{summary: "no HAT", none: true, err: "Seat the HAT"},
		{summary: "another HAT", properties: map[string]string{"product": "Sense HAT\x00\x1b[31m"}, none: true, err: `the HAT of this board is "Sense HAT[31m"`},
		{summary: "an unknown version", properties: map[string]string{"product": "ZC4:ClusterHAT\x00", "product_ver": "0x0040\x00"}, none: true, err: `"0x0040"`},
		{summary: "a version before the first", properties: map[string]string{"product": "ZC4:ClusterHAT\x00", "product_ver": "0x000f\x00"}, none: true, err: `"0x000f"`},
		{summary: "no number", properties: map[string]string{"product": "ZC4:ClusterHAT\x00", "product_ver": "two\x00"}, none: true, err: `"two"`},
		{summary: "no version", properties: map[string]string{"product": "ZC4:ClusterHAT\x00"}, err: "Name it in cluster.yaml"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			id, err := hat.Detect(deviceTree(t, test.properties))
			if got := fmt.Sprint(id.Version, " ", id.UUID); err == nil && (got != test.want || test.err != "") {
				t.Errorf("%q, want %q, %q", got, test.want, test.err)
			}
			if err != nil && (test.err == "" || !strings.Contains(err.Error(), test.err)) || errors.Is(err, hat.ErrNoHAT) != test.none {
				t.Errorf("%v, want %q, no HAT: %v", err, test.err, test.none)
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]string{"2.6": "2.6", "2": "2.0", "1.3": "1.3", "3.1": "3.1", "2.15": "2.15", "4": "", "2.": "", "2.16": "", "": "", "auto": "", "02": "", "2.6\n": "", "-1": ""} {
		v, err := hat.ParseVersion(text)
		if err == nil && v.String() != want || err != nil && want != "" {
			t.Errorf("%q: %v, %v, want %q", text, v, err, want)
		}
	}
}

func FuzzDetect(f *testing.F) {
	f.Add("ZC4:ClusterHAT\x00", "0x0026\x00")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, product, version string) {
		id, err := hat.Detect(deviceTree(t, map[string]string{"product": product, "product_ver": version}))
		if err == nil {
			if v, err := hat.ParseVersion(id.Version.String()); err != nil || v != id.Version {
				t.Errorf("%q: %v, %v", version, id.Version, err)
			}
		}
	})
}

// open opens a HAT for a test.
func open(t testing.TB, o hat.Options) *hat.HAT {
	t.Helper()
	if o.Lock == "" {
		o.Lock = filepath.Join(t.TempDir(), "run", "hat.lock")
	}
	if o.Delay == 0 {
		o.Delay = -1
	}
	h, err := hat.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// do is one line of a table.
func do(ctx context.Context, h *hat.HAT, line string) string {
	answer := func(err error) string {
		if err != nil {
			return "error: " + err.Error()
		}
		return ""
	}
	var slot int
	switch what, rest, _ := strings.Cut(line, " "); what {
	case "start":
		return answer(h.Start(ctx))
	case "on", "off", "cycle", "powered":
		if rest == "" && what == "on" {
			return answer(h.OnAll(ctx))
		}
		if rest == "" {
			return answer(h.OffAll(ctx))
		}
		if _, err := fmt.Sscanf(rest, "p%d", &slot); err != nil {
			return answer(err)
		}
		switch what {
		case "on":
			return answer(h.On(ctx, slot))
		case "off":
			return answer(h.Off(ctx, slot))
		case "cycle":
			return answer(h.Cycle(ctx, slot, 0))
		}
		on, err := h.Powered(ctx, slot)
		return fmt.Sprint(on) + answer(err)
	case "hub":
		return answer(h.Hub(ctx, rest == "on"))
	case "alert":
		return answer(h.Alert(ctx, rest == "on"))
	case "status":
		s, err := h.Status(ctx)
		text := fmt.Sprintf("%s %v alert:%v", s.Version, s.Slots, s.Alert)
		if s.Hub != nil {
			text += fmt.Sprintf(" hub:%v", *s.Hub)
		}
		return text + answer(err)
	default:
		panic(line)
	}
}

// TestExpander does things to HATs and compares what was written to their
// expanders, and what the pins are then.
func TestExpander(t *testing.T) {
	for _, test := range []struct {
		summary, version string
		chip             *expander
		dry              bool
		lines            []string
		want             string // what was answered, written, and the pins at the end
	}{
		{"on", "0x0026", used(0x10), false, []string{"on p1", "on p3", "status"},
			"| |2.6 map[p1:true p2:false p3:true p4:false] alert:false hub:true| OUT=11 OUT=15; 15"},
		{"off", "0x0026", used(0x1f), false, []string{"off p2", "off p2", "powered p2", "powered p3"}, "| |false|true| OUT=1d; 1d"},
		{"on again writes nothing", "0x0026", used(0x12), false, []string{"on p2"}, "|; 12"},
		{"cycle", "0x0026", used(0x12), false, []string{"cycle p2"}, "| OUT=10 OUT=12; 12"},
		{"all on and off", "0x0026", used(0x90), false, []string{"on", "off"}, "| | OUT=91 OUT=93 OUT=97 OUT=9f OUT=9e OUT=9c OUT=98 OUT=90; 90"},
		{"hub of 2.0", "0x0020", used(0x30), false, []string{"status", "hub off", "status", "hub on"},
			"2.0 map[p1:false p2:false p3:false p4:false] alert:false hub:true| |2.0 map[p1:false p2:false p3:false p4:false] alert:false hub:false| | OUT=10 OUT=30; 30"},
		{"hub of 3.0", "0x0030", used(0x00), false, []string{"hub off", "hub on"}, "| | OUT=20 OUT=00; 00"},
		{"alert", "0x0031", used(0x07), false, []string{"alert on", "alert off"}, "| | OUT=47 OUT=07; 07"},
		{"no such slot", "0x0026", used(0), false, []string{"on p5", "off p0", "powered p252"},
			"error: p5: SLOT|error: p0: SLOT|falseerror: p252: SLOT|; 00"},

		{"first use of a 2.6: links closed, write protection by the expander", "0x0026", &expander{out: 0xff, dir: 0xff, pur: 0xff, link: 0x0f}, false, []string{"on p1"},
			"| PUR=7f OUT=90 DIR=00 OUT=90 OUT=91; 91"},
		{"first use of a 2.6: power-on-state link cut", "0x0026", fresh(), false, []string{"start", "status"},
			"|2.6 map[p1:true p2:true p3:true p4:true] alert:false hub:true| PUR=7f OUT=9f DIR=00 OUT=9f; 9f"},
		{"first use of a 2.6: three slots seem to have power", "0x0026", &expander{out: 0xff, dir: 0xff, pur: 0xff, link: 0x02}, false, []string{"start"},
			"| PUR=7f OUT=90 DIR=00 OUT=90; 90"},
		{"first use of a 2.6: write protection soldered", "0x0026", &expander{out: 0xff, dir: 0xff, pur: 0xff, link: 0x0f, wpLink: true}, false, []string{"start"},
			"| PUR=7f PUR=ff OUT=90 DIR=00 OUT=90; 90"},
		{"first use of a 2.0", "0x0020", &expander{out: 0xff, dir: 0xff, pur: 0xff, link: 0x0f}, false, []string{"start"}, "| PUR=7f OUT=b0 DIR=00 OUT=b0; b0"},
		{"first use of a 3.1", "0x0031", &expander{out: 0xff, dir: 0xff, pur: 0xff, link: 0x0f}, false, []string{"start"}, "| PUR=7f OUT=90 DIR=00 OUT=90; 90"},
		{"first use of a PCA9554", "0x0025", &expander{out: 0xff, dir: 0xff, link: 0x0f, pca9554: true}, false, []string{"off p4"}, "| OUT=90 DIR=00 OUT=90; 90"},
		{"status sets nothing up", "0x0026", fresh(), false, []string{"status"}, "2.6 map[p1:true p2:true p3:true p4:true] alert:true hub:false|; ff"},
		{"a pin that is an input", "0x0026", &expander{out: 0x10, dir: 0x02, pur: 0}, false, []string{"on p2", "on p1"}, "| | OUT=12 DIR=00 OUT=13; 13"},

		{"some transfers fail", "0x0026", &expander{out: 0x10, nacks: 3}, false, []string{"on p2"}, "| OUT=12; 12"},
		{"nothing answers", "0x0026", &expander{out: 0x10, nacks: 1000}, false, []string{"on p2", "powered p2"},
			"error: ClusterHAT 2.6: the HAT's expander (I²C address 0x20): transfer: NACK|falseerror: ClusterHAT 2.6: the HAT's expander (I²C address 0x20): transfer: NACK|; 10"},
		{"a pin that stays low", "0x0026", &expander{stuckLow: 2}, false, []string{"on p2", "on p1"},
			"error: ClusterHAT 2.6: p2's power was switched on, but stays off: STUCK| | OUT=02 OUT=03; 01"},
		{"a pin that stays high", "0x0026", &expander{out: 2, stuckHigh: 2}, false, []string{"off p2"},
			"error: ClusterHAT 2.6: p2's power was switched off, but stays on: STUCK| OUT=00; 02"},
		{"it takes no writes", "0x0026", &expander{deaf: true}, false, []string{"on p2"},
			"error: ClusterHAT 2.6: p2's power was switched on, but the HAT's expander says off again: OTHER| OUT=02 OUT=02 OUT=02 OUT=02; 00"},
		{"it takes no first writes", "0x0026", &expander{out: 0xff, dir: 0xff, pur: 0xff, link: 0x0f, deaf: true}, false, []string{"on p2"},
			"error: ClusterHAT 2.6: the HAT's expander (I²C address 0x20) does not keep what is written to it (direction 0x00 reads back as 0xff): something else answers at this address, or it is broken| PUR=7f PUR=ff OUT=90 DIR=00 OUT=90; f0"},
		{"somebody else's bits are kept", "0x0026", &expander{out: 0x10, between: map[int]func(*expander){
			2: func(x *expander) { x.out |= 4 }, 20: func(x *expander) { x.out |= 8 }}}, false, []string{"on p2", "on p1", "off p1", "on p1"},
			"| | | | OUT=16 OUT=17 OUT=16 OUT=1f; 1f"},
		{"somebody else undoes our bit meanwhile", "0x0026", &expander{out: 0x10, between: map[int]func(*expander){
			5: func(x *expander) { x.out = 0x14 }}}, false, []string{"on p2"}, "| OUT=12 OUT=16; 16"},

		{"dry run", "0x0026", used(0x10), true, []string{"on p1", "powered p1", "off p1", "powered p1", "on p2"}, "| true| |false| |; 10"},
		{"dry run of a first use", "0x0026", fresh(), true, []string{"on p1", "status"}, "|2.6 map[p1:true p2:true p3:true p4:true] alert:false hub:true|; ff"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			h := open(t, hat.Options{Root: board(t, test.version), Bus: test.chip, DryRun: test.dry})
			var got string
			for _, line := range test.lines {
				got += do(t.Context(), h, line) + "|"
			}
			got += fmt.Sprintf("%s; %02x", test.chip.trace.String(), test.chip.in())
			for long, short := range map[string]string{
				hat.ErrNoSlot.Error():       "SLOT",
				"no such device or address": "NACK",
				"the HAT's expander has it, its pin does not follow. Take the HAT's power away for some seconds; if that does not help, a short circuit or a broken expander holds it": "STUCK",
				"another program switches it, too (clusterctrl?), or the expander is broken":                                                                                           "OTHER",
			} {
				got = strings.ReplaceAll(got, long, short)
			}
			if want := strings.ReplaceAll(test.want, "| ", "|"); strings.ReplaceAll(got, "| ", "|") != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if err := h.Close(); err != nil || !test.chip.closed {
				t.Errorf("closed: %v, %v", test.chip.closed, err)
			}
		})
	}
}

// TestFresh: who sets a HAT up first, since it got power, knows; who comes later
// does not, nor does who only looks.
// TestFirst: where there are several controllers, the slots of a HAT are others.
func TestFirst(t *testing.T) {
	chip := used(0x10)
	h := open(t, hat.Options{Version: "2.6", First: 5, Bus: chip})
	for _, step := range [][2]string{
		{"on p5", ""}, {"on p8", ""}, {"off p5", ""}, {"status", "2.6 map[p5:false p6:false p7:false p8:true] alert:false hub:true"},
	} {
		if got := do(t.Context(), h, step[0]); got != step[1] {
			t.Errorf("%s: %s, want %s", step[0], got, step[1])
		}
	}
	if chip.out != 0x18 {
		t.Errorf("the pins are %02x", chip.out)
	}
	for slot, switches := range map[int]bool{1: false, 4: false, 5: true, 8: true, 9: false} {
		if err := h.On(t.Context(), slot); h.Switches(slot) != switches || errors.Is(err, hat.ErrNoSlot) == switches {
			t.Errorf("p%d: %v", slot, err)
		}
	}
}

func TestFresh(t *testing.T) {
	chip := fresh()
	o := hat.Options{Version: "2.6", Bus: chip, Lock: filepath.Join(t.TempDir(), "lock")}
	h := open(t, o)
	if _, err := h.Status(t.Context()); err != nil || h.Fresh() {
		t.Errorf("a look: %v, %v", h.Fresh(), err)
	}
	chip.nacks = 100
	if err := h.Start(t.Context()); err == nil || h.Fresh() {
		t.Errorf("nothing answers: %v, %v", h.Fresh(), err)
	}
	chip.nacks = 0
	if err := errors.Join(h.Start(t.Context()), h.On(t.Context(), 1)); err != nil || !h.Fresh() {
		t.Errorf("the first: %v, %v", h.Fresh(), err)
	}
	if h := open(t, o); h.Start(t.Context()) != nil || h.Fresh() {
		t.Error("a later one takes it for fresh")
	}
	lines := hat.Options{Version: "1.3", Lines: &gpio{high: map[int]bool{}}}
	if h := open(t, lines); h.Start(t.Context()) != nil || h.Fresh() {
		t.Error("a v1 is taken for fresh")
	}
}

func TestTypedErrors(t *testing.T) {
	h := open(t, hat.Options{Version: "2.6", Bus: &expander{stuckLow: 2}})
	var stuck *hat.StuckError
	if err := h.On(t.Context(), 2); !errors.As(err, &stuck) || !stuck.Latch || stuck.Pin || !stuck.Wanted {
		t.Errorf("%v", err)
	}
	if err := h.On(t.Context(), 5); !errors.Is(err, hat.ErrNoSlot) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := open(t, hat.Options{Version: "2.6", Bus: &expander{nacks: 9}}).On(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestV1 is the HAT on GPIO lines.
func TestV1(t *testing.T) {
	lines := &gpio{high: map[int]bool{19: true}}
	var log strings.Builder
	o := hat.Options{Root: board(t, "0x0013"), Lines: lines, Log: slog.New(slog.NewTextHandler(&log, nil))}
	h := open(t, o)
	var got []string
	for _, line := range []string{"status", "on p1", "on p2", "off p3", "alert on", "hub off", "on p5", "status"} {
		got = append(got, do(t.Context(), h, line))
	}
	want := "1.3 map[p1:false p2:false p3:true p4:false] alert:false|||||" +
		"error: USB hub of ClusterHAT 1.3: this version of the ClusterHAT cannot switch it|error: p5: " + hat.ErrNoSlot.Error() +
		"|1.3 map[p1:true p2:true p3:false p4:false] alert:true"
	if text := strings.Join(got, "|"); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if lines := fmt.Sprint(lines.high); lines != "map[5:true 6:true 13:true 19:false]" {
		t.Errorf("lines: %s", lines)
	}
	lines.short = map[int]bool{26: true}
	var stuck *hat.StuckError
	if err := h.On(t.Context(), 4); !errors.As(err, &stuck) {
		t.Errorf("a short circuit: %v", err)
	}
	lines.busy = errors.New("another program (\"gpioset\") has it")
	if err := h.On(t.Context(), 3); err == nil || !strings.Contains(err.Error(), "GPIO 19: another program") {
		t.Errorf("busy: %v", err)
	}
	lines.busy, lines.high = nil, map[int]bool{}
	o.DryRun = true
	log.Reset()
	if h := open(t, o); do(t.Context(), h, "on p3") != "" || do(t.Context(), h, "powered p3") != "true" || len(lines.high) != 0 || !strings.Contains(log.String(), "would set a GPIO line") {
		t.Errorf("dry run: %v, %s", lines.high, log.String())
	}
}

// TestDelay: slots are switched on with a delay between them, whoever asks;
// what is on already, and switching off, does not wait.
func TestDelay(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		h := open(t, hat.Options{Version: "2.6", Bus: used(0x04), Lock: lock, Delay: time.Second})
		var all sync.WaitGroup
		var mu sync.Mutex
		times := map[time.Duration]int{}
		for slot := 1; slot <= 4; slot++ {
			all.Go(func() {
				if err := h.On(t.Context(), slot); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if slot != 3 {
					times[time.Since(begin)]++
				}
			})
		}
		all.Wait()
		if got := fmt.Sprint(times); got != "map[0s:1 1s:1 2s:1]" {
			t.Errorf("switched on after %s", got)
		}
		if err := h.Off(t.Context(), 2); err != nil || time.Since(begin) != 2*time.Second {
			t.Errorf("off after %s: %v", time.Since(begin), err)
		}
		time.Sleep(10 * time.Second)
		begin = time.Now()
		for _, slot := range []int{2, 3} { // 3 is on already
			if err := h.On(t.Context(), slot); err != nil || time.Since(begin) > 0 {
				t.Errorf("p%d on after %s: %v", slot, time.Since(begin), err)
			}
		}
		time.Sleep(900 * time.Millisecond)
		if err := errors.Join(h.On(t.Context(), 3), h.Off(t.Context(), 2), h.On(t.Context(), 2), h.Off(t.Context(), 2)); err != nil || time.Since(begin) != time.Second {
			t.Errorf("on after %s: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := h.On(ctx, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no time to wait: %v", err)
		}
	})
}

// TestManyWriters: no bit is lost among several that use the same lock, as
// several processes do.
func TestManyWriters(t *testing.T) {
	chip, lock := used(0x10), filepath.Join(t.TempDir(), "lock")
	var all sync.WaitGroup
	for slot := 1; slot <= 4; slot++ {
		h := open(t, hat.Options{Version: "2.6", Bus: slow{chip}, Lock: lock})
		all.Go(func() {
			for range 5 {
				for _, on := range []bool{true, false} {
					if err := map[bool]func(context.Context, int) error{true: h.On, false: h.Off}[on](t.Context(), slot); err != nil {
						t.Error(err)
					}
					if is, err := h.Powered(t.Context(), slot); err != nil || is != on {
						t.Errorf("p%d: %v, %v, want %v", slot, is, err, on)
					}
				}
			}
		})
	}
	all.Wait()
	// Each switching is one write: none was lost, so none was done again.
	if n := strings.Count(chip.trace.String(), "OUT="); n != 40 || chip.in() != 0x10 {
		t.Errorf("%d writes, then %02x: %s", n, chip.in(), chip.trace.String())
	}
}

// slow is a bus on which transfers take time.
type slow struct{ *expander }

func (s slow) ReadByteData(register byte) (byte, error) {
	time.Sleep(50 * time.Microsecond)
	return s.expander.ReadByteData(register)
}

func (s slow) WriteByteData(register, value byte) error {
	time.Sleep(50 * time.Microsecond)
	return s.expander.WriteByteData(register, value)
}

// TestOpen: what is missing is named, with what to do.
func TestOpen(t *testing.T) {
	for _, test := range []struct {
		summary string
		root    string
		version string
		err     string
	}{
		{"no HAT", deviceTree(t, nil), "", "no ClusterHAT was found"},
		{"no such version", deviceTree(t, nil), "4", "ClusterHAT 4.0 is not known"},
		{"no I²C", board(t, "0x0026"), "auto", "dtoverlay=i2c-gpio,bus=1"},
		{"no GPIO", board(t, "0x0013"), "auto", "no GPIO controller"},
		{"no I²C device", withFile(t, "0x0026", "dev/i2c-1"), "auto", "cannot address 0x20"},
		{"no GPIO device", withFile(t, "0x0013", "dev/gpiochip0"), "auto", "none of the GPIO controllers is a Raspberry Pi's"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := hat.Open(hat.Options{Root: test.root, Version: test.version})
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%v, want %q", err, test.err)
			}
		})
	}
	h := open(t, hat.Options{Version: "2.6", Bus: used(0), Lock: filepath.Join(t.TempDir(), "a", "\x00")})
	if err := h.On(t.Context(), 1); err == nil {
		t.Error("without a lock it switches")
	}
}

func withFile(t *testing.T, version, path string) string {
	root := board(t, version)
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}
