package firstboot

import (
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestPausesGrowAndDiffer(t *testing.T) {
	i := Intervals{}.orDefaults()
	for _, test := range []struct {
		tries     int
		low, high time.Duration
	}{
		{1, 750 * time.Millisecond, 1250 * time.Millisecond},
		{2, 1500 * time.Millisecond, 2500 * time.Millisecond},
		{4, 6 * time.Second, 10 * time.Second},
		{7, 45 * time.Second, 75 * time.Second},
		{1 << 30, 45 * time.Second, 75 * time.Second},
	} {
		seen := make(map[time.Duration]bool)
		for range 100 {
			d := i.pause(test.tries)
			if d < test.low || d > test.high {
				t.Fatalf("after %d tries %v, want %v to %v", test.tries, d, test.low, test.high)
			}
			seen[d] = true
		}
		if len(seen) < 50 {
			t.Errorf("after %d tries only %d different pauses of 100", test.tries, len(seen))
		}
	}
}

func TestSpread(t *testing.T) {
	for _, d := range []time.Duration{-1 << 63, -time.Hour, -1, 0, 1, time.Second, time.Hour} {
		if got := spread(d); got < 0 || d > 0 && (got < d/4*3 || got/5 > d/4) {
			t.Errorf("%v is spread to %v", d, got)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("waits for the controller's service: no answer")
	f.Add("\xff\x1b[2J\n" + strings.Repeat("…", 500))
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range printable(text) {
			if r > unicode.MaxASCII || !unicode.IsPrint(r) {
				t.Errorf("%q is not for a console: %q", text, r)
			}
		}
	})
}
