package terminal_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/internal/progress/terminal"
	"hatchery/internal/testtool"
)

// pty opens a pseudo-terminal of the given size: what is written to the
// terminal comes out of the returned function once the terminal is closed.
func pty(t *testing.T, rows, columns uint16) (_ *os.File, shown func() string) {
	t.Helper()
	master, tty := testtool.Terminal(t, rows, columns)
	var all []byte
	done := make(chan struct{})
	go func() {
		all, _ = io.ReadAll(master) // ends with EIO
		close(done)
	}()
	return tty, func() string {
		tty.Close()
		<-done
		return string(all)
	}
}

// TestBarsEnd draws more tasks than a terminal has rows, of known length and
// of unknown, that end as they should, early, late and with errors. Close must
// come back from all of it.
func TestBarsEnd(t *testing.T) {
	for _, size := range [][2]uint16{{24, 100}, {3, 40}, {0, 0}} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			tty, shown := pty(t, size[0], size[1])
			display := terminal.New(tty)
			var group sync.WaitGroup
			for i := range 30 {
				group.Go(func() {
					total := []int64{1 << 20, -1, 0}[i%3]
					task := display.Begin(fmt.Sprintf("task %d", i), total)
					for range 10 {
						task.Add(1 << 20 / 10) // a little less than the total, at last
						time.Sleep(time.Millisecond)
					}
					switch i % 5 {
					case 1:
						task.Add(1 << 20) // more than was announced
					case 2:
						task.End(errors.New("it failed"))
					case 3:
						task.Add(1<<20 - 10*(1<<20/10)) // exactly
					}
					task.End(nil)
					task.End(nil)
				})
			}
			group.Wait()
			closed := make(chan struct{})
			go func() { display.Close(); close(closed) }()
			select {
			case <-closed:
			case <-time.After(time.Minute):
				t.Fatal("Close waits for a bar that has ended")
			}
			// Of more tasks than rows that end between two frames, not all
			// are drawn; which, goes by the machine's speed.
			if text := shown(); size[0] > 0 && !strings.Contains(text, "task ") {
				t.Errorf("no task was ever drawn:\n%q", text)
			}
		})
	}
}
