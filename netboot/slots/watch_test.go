package slots_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hatchery/netboot/slots"
)

// TestWatch: who follows gets everything at first, then what changes, and the
// last of it however slowly it is read.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := slots.New(slots.Options{Slots: []int{2, 1}})
		ctx, cancel := context.WithCancel(t.Context())
		watch := b.Watch(ctx)
		next := func() string {
			st, ok := <-watch
			if !ok {
				return "closed"
			}
			return st.Slot + " " + string(st.State)
		}
		got := next() + ", " + next()
		synctest.Wait()
		for i := range 10000 { // nobody reads
			b.Tell(2, slots.Event{Kind: slots.File, Name: "kernel.img", Bytes: int64(i), Total: 10000})
		}
		b.Tell(2, slots.Event{Kind: slots.FilesDone})
		got += ", " + next()
		b.Tell(1, slots.Event{Kind: slots.BootROM})
		b.Tell(2, slots.Event{Kind: slots.LinkUp})
		got += ", " + next() + ", " + next()
		cancel()
		got += ", " + next()
		if want := "p1 unknown, p2 unknown, p2 link, p1 bootcode, p2 link, closed"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		b.Tell(1, slots.Event{Kind: slots.LinkUp}) // nobody is there any more
	})
}

// TestStatus is what programs get to see, and that hostile texts are fit to be
// shown.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := slots.New(slots.Options{Slots: []int{1, 2}})
		b.Tell(2, slots.Event{Kind: slots.BootROM})
		time.Sleep(2 * time.Second)
		b.Tell(2, slots.Event{Kind: slots.FileServer})
		time.Sleep(time.Second)
		b.Tell(2, slots.Event{Kind: slots.File, Name: "config.txt", Bytes: 1400, Total: 1400, Sum: 1400})
		b.Tell(2, slots.Event{Kind: slots.File, Name: "a\x1b[31m\nb\xff" + strings.Repeat("ö", 500), Bytes: 17, Total: 4096, Sum: 1417})
		b.Tell(7, slots.Event{Kind: slots.BootROM})
		st, ok := b.Status(2)
		if !ok {
			t.Fatal("no p2")
		}
		if p := st.Progress; p == nil || len(p.File) > 310 || strings.ContainsAny(p.File, "\x1b\n") || strings.Contains(p.File, "\xff") || !strings.HasPrefix(p.File, "a?[31m?b?ö") {
			t.Errorf("progress: %+v", st.Progress)
		}
		st.Progress.File, st.Detail = "", ""
		text, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		const want = `{"slot":"p2","state":"files","since":"2000-01-01T00:00:02Z","for_ns":1000000000,"power":"unknown","enabled":true,` +
			`"progress":{"file":"","bytes":17,"total":4096,"files":2,"sum":1417},"tries":0,"max_tries":3,"boots":1,"cycles":0,` +
			`"events":[{"at":"2000-01-01T00:00:00Z","state":"bootcode","text":"its boot ROM is on USB"},{"at":"2000-01-01T00:00:02Z","state":"files","text":"it asks for boot files"}]}`
		if string(text) != want {
			t.Errorf("got  %s\nwant %s", text, want)
		}
		if _, ok := b.Status(7); ok {
			t.Error("there is a p7")
		}
		for _, err := range []error{b.SwitchOn(t.Context(), 7), b.Retry(7)} {
			if !errors.Is(err, slots.ErrNoSlot) {
				t.Errorf("p7: %v", err)
			}
		}
	})
}
