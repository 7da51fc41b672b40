package transfer_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/netboot/disk"
	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
	"hatchery/netboot/transfer"
)

// TestMain receives, on stdin and stdout, into the store that the environment
// names: what `hatchery netboot receive` does.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TRANSFER_TEST_RECEIVE"); dir != "" {
		if err := receive(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func receive(dir string) error {
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{
		Run: filepath.Join(dir, "run"), Reserve: -1, Disk: disk.Options{Reserve: -1, FlushEvery: -1},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = transfer.Receive(context.Background(), end{os.Stdin, os.Stdout}, s, nil)
	return err
}

// A guillotine kills a process once so many bytes were written to it.
type guillotine struct {
	io.WriteCloser
	left int64
	kill func() error
}

func (g *guillotine) Write(p []byte) (int, error) {
	if g.left >= 0 && int64(len(p)) > g.left {
		n, err := g.WriteCloser.Write(p[:g.left])
		g.left = 1 << 62
		if kerr := g.kill(); err == nil {
			err = kerr
		}
		if err == nil {
			err = io.ErrClosedPipe
		}
		return n, err
	}
	g.left -= int64(len(p))
	return g.WriteCloser.Write(p)
}

// TestKill kills the receiver after more and more bytes, on one store, until a
// push comes through. What was verified is there, nothing else is, each push
// sends less, and the last one makes all as it should be.
func TestKill(t *testing.T) {
	o := storetest.Layer(t, storetest.Layer(t, storetest.Base(t, baseSize, 1), 2), 3)
	offer := transfer.Offer{Objects: sources(o), Slots: []transfer.Assignment{assignment(1, o)}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	killed := 0
	for limit := int64(100); ; limit += 1<<20 + 12345 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "TRANSFER_TEST_RECEIVE="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		g := &guillotine{in, limit, cmd.Process.Kill}
		result, err := transfer.Send(t.Context(), end{out, g}, offer)
		in.Close()
		cmd.Wait()
		s := openStore(t, dir, -1)
		if err == nil {
			if killed < 3 {
				t.Errorf("killed %d times only", killed)
			}
			same(t, s, o)
			if left, err := os.ReadDir(filepath.Join(s.Dir(), "incoming")); err != nil || len(left) > 0 {
				t.Errorf("left in incoming: %v, %v", left, err)
			}
			if len(result.Present) == 0 && result.Data > baseSize/3 {
				t.Errorf("the last push sent %d bytes: it did not go on", result.Data)
			}
			return
		}
		killed++
		if stderr.Len() > 0 {
			t.Fatalf("after %d bytes: %s", limit, stderr.String())
		}
		if st, err := s.State(1); err != nil || st.Next != nil {
			t.Fatalf("after %d bytes: %+v, %v", limit, st, err)
		}
		u, err := s.Space()
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range u.Objects {
			for i, part := range o.Chain() {
				if part.Digest == object.Digest && (object.Kind == store.Base) == (i == 0) {
					goto known
				}
			}
			t.Fatalf("after %d bytes: the store has %s", limit, object.Digest)
		known:
		}
		s.Close()
	}
}
