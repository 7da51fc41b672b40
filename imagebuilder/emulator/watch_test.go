package emulator

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLost(t *testing.T) {
	second := uint32(1_000_000)
	at := func(counter, compare uint32, pending bool) reading {
		return reading{counter: counter, compare: compare, pending: pending, taken: true}
	}
	for _, c := range []struct {
		summary     string
		before, now reading
		want        bool
	}{
		{"the first look says nothing", reading{}, at(9*second, 5*second, false), false},
		{"an event to come", at(5*second, 5*second+4000, false), at(5*second+2000, 5*second+4000, false), false},
		{"a guest that lives has set another one", at(5*second, 5*second+4000, false), at(6*second, 6*second-300_000, false), false},
		{"its moment has passed, and nothing comes", at(5*second, 5*second-100, false), at(6*second, 5*second-100, false), true},
		{"the interrupt has come, and waits for the guest", at(5*second, 5*second-100, true), at(6*second, 5*second-100, true), false},
		{"the counter has gone round", at(1<<32-1000, 1<<32-1200, false), at(second, 1<<32-1200, false), true},
		{"an event behind the counter's turn", at(1<<32-1000, 2000, false), at(1<<32-500, 2000, false), false},
		{"just passed", at(5*second, 5*second+1000, false), at(5*second+2000, 5*second+1000, false), false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if _, got := c.now.lost(c.before, lookEvery); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// fakeTimer answers as QEMU's qtest does, for a guest whose timer ticks every
// 4 ms until it stops.
type fakeTimer struct {
	mu      sync.Mutex
	begun   time.Time
	compare uint32
	stopped bool
	dead    bool // does not go on when it is given an event
	written int
}

func (f *fakeTimer) counter() uint32 { return uint32(time.Since(f.begun).Microseconds()) + 1000 }

func (f *fakeTimer) answer(line string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.stopped {
		f.compare = f.counter() + 4000
	}
	var address, value uint32
	switch {
	case scan(line, "writel 0x%x 0x%x", &address, &value):
		if address != timerCompare {
			return "FAIL"
		}
		f.written++
		f.compare = value
		f.stopped = f.dead
		return "OK"
	case scan(line, "readl 0x%x", &address):
		v := map[uint32]uint32{timerStatus: 0, timerCounter: f.counter(), timerCompare: f.compare}[address]
		return fmt.Sprintf("OK 0x%016x", v)
	}
	return "FAIL unknown command"
}

func scan(line, format string, to ...any) bool {
	n, err := fmt.Sscanf(line, format, to...)
	return err == nil && n == len(to)
}

func (f *fakeTimer) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compare, f.stopped = f.counter()-1, true
}

// testEvery is how often tests look.
const testEvery = 40 * time.Millisecond

func watched(t *testing.T, f *fakeTimer) (rearmed chan time.Duration, hung chan struct{}) {
	t.Helper()
	w, err := newWatch()
	if err != nil {
		t.Fatal(err)
	}
	rearmed, hung = make(chan time.Duration, 200), make(chan struct{})
	w.rearmed = func(late time.Duration) { rearmed <- late }
	w.hung = func() { close(hung) }
	w.every = testEvery
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		w.run(ctx)
		close(ended)
	}()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.port()))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		in := bufio.NewScanner(conn)
		for in.Scan() {
			fmt.Fprintf(conn, "IRQ raise 3\n%s\n", f.answer(strings.TrimSpace(in.Text())))
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		conn.Close()
	})
	return rearmed, hung
}

func TestALostEventIsGivenBack(t *testing.T) {
	t.Parallel()
	f := &fakeTimer{begun: time.Now()}
	rearmed, hung := watched(t, f)
	time.Sleep(10 * testEvery)
	if len(rearmed) > 0 {
		t.Fatal("a timer that ticks was touched")
	}
	f.stop()
	select {
	case late := <-rearmed:
		if late < testEvery/2 {
			t.Errorf("given back after %v: too soon to be sure", late)
		}
	case <-hung:
		t.Fatal("hung")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped || f.written != 1 {
		t.Errorf("after %d writes, stopped: %v", f.written, f.stopped)
	}
}

func TestATimerThatStaysStillIsAHang(t *testing.T) {
	t.Parallel()
	f := &fakeTimer{begun: time.Now(), dead: true}
	_, hung := watched(t, f)
	time.Sleep(10 * testEvery)
	f.stop()
	<-hung
}
