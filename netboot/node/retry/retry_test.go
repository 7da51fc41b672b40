package retry_test

import (
	"slices"
	"testing"
	"time"

	"hatchery/netboot/node/retry"
)

func TestPolicy(t *testing.T) {
	p := retry.Policy{First: 200 * time.Millisecond, Longest: time.Second}
	var got []time.Duration
	for _, attempt := range []int{0, 1, 2, 3, 4, 5, 1 << 30} {
		got = append(got, p.Pause(attempt))
	}
	ms := time.Millisecond
	if want := []time.Duration{200 * ms, 200 * ms, 400 * ms, 800 * ms, time.Second, time.Second, time.Second}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestTeller waits for five minutes, asked four times a second.
func TestTeller(t *testing.T) {
	var teller retry.Teller
	var told []time.Duration
	for at := time.Duration(0); at < 5*time.Minute; at += 250 * time.Millisecond {
		words := "no link"
		if at >= 100*time.Second {
			words = "no server"
		}
		if teller.Tell(at, words) {
			told = append(told, at)
		}
	}
	s := time.Second
	if want := []time.Duration{0, 5 * s, 15 * s, 35 * s, 75 * s, 100 * s, 160 * s, 220 * s, 280 * s}; !slices.Equal(told, want) {
		t.Errorf("told at %v, want %v", told, want)
	}
	// Words that change all the time are not told all the time.
	teller = retry.Teller{}
	n := 0
	for i := range 100 {
		if teller.Tell(time.Duration(i)*100*time.Millisecond, string(rune('a'+i%26))) {
			n++
		}
	}
	if n != 10 {
		t.Errorf("told %d times in 10 s", n)
	}
}
