package backup_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/controller/backup"
)

// TestSchedule plays changes (c), calls of Soon (s) and failures (f) at seconds, and
// backups wherever one is due, and looks at when those were.
func TestSchedule(t *testing.T) {
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	busy := func(from, to, step int) map[int]string {
		events := make(map[int]string)
		for s := from; s <= to; s += step {
			events[s] = "c"
		}
		return events
	}
	cases := []struct {
		summary string
		events  map[int]string
		fails   int // that many tries fail
		want    string
	}{
		{"nothing happens", nil, 0, ""},
		{"one change", map[int]string{10: "c"}, 0, "40"},
		{"several changes", map[int]string{10: "c", 20: "c", 45: "c"}, 0, "75"},
		{"changes again and again", map[int]string{10: "c", 100: "c", 500: "c"}, 0, "40 340 640"},
		{"never quiet", busy(10, 1000, 5), 0, "310 615 920 1220"},
		{"a node joins", map[int]string{10: "s"}, 0, "15"},
		{"nodes join one after the other", map[int]string{10: "s", 12: "s", 14: "s", 16: "s"}, 0, "15 21"},
		{"a node joins after a backup", map[int]string{10: "c", 50: "s"}, 0, "40 55"},
		{"a node joins amid changes", map[int]string{10: "c", 20: "s", 26: "c"}, 0, "25 325"},
		{"failures", map[int]string{10: "s"}, 3, "15! 45! 75! 105"},
	}
	for _, tc := range cases {
		s := backup.NewSchedule(backup.Times{}.WithDefaults())
		var got []string
		fails := tc.fails
		for second := range 2000 {
			now := at(second)
			for _, e := range tc.events[second] {
				switch e {
				case 'c':
					s.Changed(now)
				case 's':
					s.Hurry(now)
				}
			}
			due := s.Due()
			if due.IsZero() || due.After(now) {
				continue
			}
			when := due.Sub(start) / time.Second
			if fails > 0 {
				fails--
				s.Failed(now)
				got = append(got, strconv.Itoa(int(when))+"!")
				continue
			}
			s.Done(now)
			got = append(got, strconv.Itoa(int(when)))
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: at %q, want %q", tc.summary, strings.Join(got, " "), tc.want)
		}
	}
}
