package emulator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// The timer of the emulated board loses events. Linux (drivers/clocksource/bcm2835_timer.c,
// bcm2835_time_set_next_event) reads the free-running counter, adds what it wants to
// wait and writes the sum to a compare register; where QEMU is held up between
// the two, the moment has passed when it is written, and the next match is 71.6
// minutes away. Everything in the guest that sleeps then hangs, while pings go on being answered.
// A board is too fast for that.
//
// A watch looks at the two registers from outside and, where an event was lost, sets the
// compare register to the moment after now, so that the guest's interrupt comes late
// but comes. It does so by QEMU's qtest protocol (system/qtest.c), which reads and writes a guest's memory,
// beside the emulation and without stopping it.
type watch struct {
	listener net.Listener
	every    time.Duration // between two looks
	rearmed  func(late time.Duration)
	// hung is called once where the guest's timer has stood still although events
	// were given back.
	hung func()
}

// The BCM2835's system timer (BCM2835 ARM Peripherals, chapter 12), at the
// addresses that its processor has for it. It counts microseconds.
const (
	timerStatus  = 0x20003000
	timerCounter = 0x20003004
	timerCompare = 0x20003018 // channel 3, which Linux takes
	channel3     = 1 << 3
)

const (
	// lookEvery is how often the timer is looked at.
	lookEvery = 500 * time.Millisecond
	// hangs is after how many events in a row, each lost again at once, a guest hangs.
	hangs = 60
	// silence is how long QEMU may take for an answer.
	silence = 60 * time.Second
	// armAhead is how far ahead, in µs, an event is put that is given back.
	armAhead = 2000
)

func newWatch() (*watch, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot watch the guest's timer: %w", err)
	}
	return &watch{listener: l, every: lookEvery}, nil
}

func (w *watch) port() int { return w.listener.Addr().(*net.TCPAddr).Port }

// run watches until QEMU ends, or ctx. It takes one connection, QEMU's.
func (w *watch) run(ctx context.Context) {
	defer w.listener.Close()
	stop := context.AfterFunc(ctx, func() { w.listener.Close() })
	defer stop()
	conn, err := w.listener.Accept()
	if err != nil {
		return
	}
	w.listener.Close()
	defer conn.Close()
	stop = context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	t := &timer{conn: conn, in: bufio.NewReader(conn)}
	ticker := time.NewTicker(w.every)
	defer ticker.Stop()
	var before reading
	lives := false // the guest has set an event, and another one
	lost := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := t.read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			w.hung()
			return
		}
		if err != nil {
			return // QEMU has ended
		}
		late, is := now.lost(before, w.every)
		lives = lives || before.compare != 0 && now.compare != before.compare
		before = now
		if !is || !lives {
			lost = 0
			continue
		}
		if lost++; lost == hangs {
			w.hung()
			return
		}
		// Where the guest does nothing with it, it is the same one at the next look.
		if before.compare, err = t.arm(); err != nil {
			return
		}
		w.rearmed(late)
	}
}

// A reading is the timer's state.
type reading struct {
	counter, compare uint32
	pending          bool // the match has come, and the guest has not answered it
	taken            bool
}

// lost says whether the event that the guest waits for has been missed, and
// for how long: its moment has passed, no interrupt is on its way, and it was the same
// one when the timer was looked at before. A guest that lives sets its next event
// every few milliseconds, since its kernel ticks.
func (now reading) lost(before reading, every time.Duration) (time.Duration, bool) {
	if !before.taken || now.pending || now.compare != before.compare {
		return 0, false
	}
	// Signed: a moment to come is negative.
	late := int32(now.counter - now.compare)
	if late < int32(every/time.Microsecond)/2 {
		return 0, false
	}
	return time.Duration(late) * time.Microsecond, true
}

// timer is a guest's timer, by QEMU's qtest protocol.
type timer struct {
	conn net.Conn
	in   *bufio.Reader
}

func (t *timer) read() (reading, error) {
	r := reading{taken: true}
	status, err := t.get(timerStatus)
	if err != nil {
		return r, err
	}
	r.pending = status&channel3 != 0
	if r.compare, err = t.get(timerCompare); err != nil {
		return r, err
	}
	r.counter, err = t.get(timerCounter)
	return r, err
}

// arm sets the guest's next event to the moment after now, and tells which
// that is.
func (t *timer) arm() (uint32, error) {
	now, err := t.get(timerCounter)
	if err != nil {
		return 0, err
	}
	_, err = t.call(fmt.Sprintf("writel 0x%x 0x%x", timerCompare, now+armAhead))
	return now + armAhead, err
}

func (t *timer) get(address uint32) (uint32, error) {
	answer, err := t.call(fmt.Sprintf("readl 0x%x", address))
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(strings.TrimPrefix(answer, "0x"), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("QEMU answers %q for a register: %w", answer, err)
	}
	return uint32(v), nil
}

func (t *timer) call(command string) (string, error) {
	if err := t.conn.SetDeadline(time.Now().Add(silence)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(t.conn, "%s\n", command); err != nil {
		return "", err
	}
	for {
		// No answer of QEMU's is as long as the buffer.
		said, err := t.in.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		line := strings.TrimSpace(string(said))
		if strings.HasPrefix(line, "IRQ ") {
			continue // not asked for
		}
		answer, ok := strings.CutPrefix(line, "OK")
		if !ok {
			return "", fmt.Errorf("QEMU answers %q to %q", line, command)
		}
		return strings.TrimSpace(answer), nil
	}
}
