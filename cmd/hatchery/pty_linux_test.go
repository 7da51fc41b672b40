package main

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// TestOnATerminal builds where somebody watches: with bars, on terminals of
// several sizes, it must come to its end and print what it made.
func TestOnATerminal(t *testing.T) {
	base := imagetest.XZ(t, imagetest.Bookworm(t))
	for _, rows := range []uint16{24, 3, 0} {
		t.Run(fmt.Sprint(rows, " rows"), func(t *testing.T) {
			w := newWorkspace(t, base, "")
			master, tty := testtool.Terminal(t, rows, 100)
			cmd := w.command("build")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			tty.Close()
			hung := time.AfterFunc(5*time.Minute, func() { cmd.Process.Signal(unix.SIGQUIT) })
			defer hung.Stop()
			shown, _ := io.ReadAll(master) // ends with EIO
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v\n%s", err, shown)
			}
			if !bytes.Contains(shown, []byte("Next: `hatchery flash controller p1 p2 p3 p4`")) {
				t.Errorf("it does not say what it made:\n%s", shown)
			}
		})
	}
}
