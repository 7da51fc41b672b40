//go:build linux

package clustertest_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/controller/clustertest"
	"hatchery/controller/operation"
	"hatchery/internal/nodefile"
)

// A notes counts what the service writes down of an operation: it renames files into place,
// and the kernel tells.
type notes struct {
	n    atomic.Int64
	hook atomic.Pointer[func(n int64, name string)]
}

// watchNotes counts until the test ends.
func watchNotes(t *testing.T, dirs ...string) *notes {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	for _, dir := range dirs {
		must(t, os.MkdirAll(dir, 0o700))
		_, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO)
		must(t, err)
	}
	f := os.NewFile(uintptr(fd), "inotify") // which the runtime waits for
	t.Cleanup(func() { f.Close() })
	k := new(notes)
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			got, err := f.Read(buffer)
			if err != nil {
				return // closed
			}
			for b := buffer[:got]; len(b) >= unix.SizeofInotifyEvent; {
				// The name's length is the last number of the head.
				length := int(b[12]) | int(b[13])<<8 | int(b[14])<<16
				name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length]), "\x00")
				b = b[unix.SizeofInotifyEvent+length:]
				if name != operation.File && name != "reimage.json" && name != "state.json" && name != "p1.json" {
					continue // of other matters
				}
				n := k.n.Add(1)
				if hook := k.hook.Load(); hook != nil {
					(*hook)(n, name)
				}
			}
		}
	}()
	return k
}

// killPoint kills the service at the so-manieth note from now on, a moment later. Where says
// where that was, "" where it has not come to that.
func (k *notes) killPoint(c *clustertest.Cluster, at int64, later time.Duration) (where func() string) {
	k.n.Store(0)
	var said atomic.Pointer[string]
	hook := func(n int64, name string) {
		if n != at {
			return
		}
		time.Sleep(later)
		pid := c.ServePid()
		if pid == 0 {
			return
		}
		if syscall.Kill(pid, syscall.SIGKILL) != nil {
			return
		}
		text := fmt.Sprintf("killed %v after note %d (%s)", later, n, name)
		said.Store(&text)
	}
	k.hook.Store(&hook)
	return func() string {
		k.hook.Store(nil)
		if text := said.Load(); text != nil {
			return *text
		}
		return ""
	}
}

// begun begins a rebuild of p1 whose service may be killed before it can say so: then
// it is begun all the same, or not.
func begun(t *testing.T, c *clustertest.Cluster) (op *operation.Operation) {
	t.Helper()
	known := len(operations(t, c))
	until(t, "the rebuild to begin", func() bool {
		var err error
		if list := operations(t, c); len(list) > known {
			op = list[0]
			return true
		}
		op, err = operation.Client{Caller: c.Service()}.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{1}, Keep: true, By: "sam"})
		return err == nil
	})
	return op
}

// TestRebuildKilled rebuilds p1 again and again, with another image each time, and kills the
// service (-9) at each of the moments at which it has written something down, evenly
// spread: 5 here, 20 with HATCHERY_SOAK=1. What starts it again is what systemd is; the
// rebuild goes on, and nothing is left behind.
func TestRebuildKilled(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Intervals: quick, Founding: alone, Keep: []string{nodefile.KeepVolumes}, Labels: map[int]map[string]string{1: {"disk": "ssd"}}})
	p1 := c.Slot(1)
	images := []*clustertest.Image{c.Build(p1, clustertest.Release{Name: "one"}), c.Build(p1, clustertest.Release{Name: "two"})}
	names := []string{"one", "two"}
	c.Insert(p1, images[0])
	c.Push(images[0])
	state := c.Controller.State()
	k := watchNotes(t, filepath.Join(state, nodefile.ServiceDir), filepath.Join(state, "cards"), filepath.Join(state, "kept"), filepath.Join(state, nodefile.NetbootDir, "slots", "p1"))
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	c.WaitSettled()
	docker(t, c, "node", "update", "--label-add", "rack=top", "p1")
	settled := c.Settled(map[int]string{1: "rack=top"})
	_, err := p1.Docker(t.Context(), "volume", "create", "data")
	must(t, err)
	round := 0
	rebuild := func() {
		t.Helper()
		round++
		former := clustertest.NodeOf(t, c.WaitTable(settled), 1).ID
		image := images[round%2]
		c.Push(image)
		content := fmt.Sprintf("round %d", round)
		must(t, os.WriteFile(filepath.Join(volume(p1), "file"), []byte(content), 0o600))
		must(t, os.WriteFile(scratch(p1), nil, 0o600))
		op := begun(t, c)
		until(t, op.ID+" to be over", func() bool {
			for _, o := range operations(t, c) {
				if o.ID == op.ID {
					op = o
				}
			}
			return op.Over()
		})
		if op.State != operation.Done {
			t.Fatalf("it is %s: %s %+v", op.State, op.Error, op.Slots)
		}
		if clustertest.NodeOf(t, c.Stands(settled), 1).ID == former {
			t.Errorf("p1 is node %s still", former)
		}
		if got, err := os.ReadFile(filepath.Join(volume(p1), "file")); string(got) != content {
			t.Errorf("the volume has %q %v, want %q", got, err, content)
		}
		if _, err := os.Stat(scratch(p1)); err == nil {
			t.Error("a file of the former root is there")
		}
		clean(t, c, 1, names[round%2])
	}

	k.n.Store(0)
	began := time.Now()
	rebuild()
	all := k.n.Load()
	t.Logf("rebuilt in %v; that is written down with %d notes", time.Since(began).Round(100*time.Millisecond), all)
	if all < 10 {
		t.Fatalf("%d notes are not those of a rebuild", all)
	}
	points := int64(rounds(5, 20))
	for i, tries := int64(0), int64(0); i < points; tries++ {
		if tries == 3*points {
			t.Fatalf("the service was killed at %d of %d points", i, points)
		}
		// Evenly over all notes, from the first to the last but one.
		at, later := 1+i*(all-2)/(points-1), time.Duration(0)
		if i%2 == 1 {
			later = time.Duration(rand.Int64N(int64(300 * time.Millisecond)))
		}
		where := k.killPoint(c, at, later)
		began = time.Now()
		rebuild()
		took := time.Since(began).Round(100 * time.Millisecond)
		if t.Failed() {
			t.FailNow()
		}
		if said := where(); said != "" {
			i++
			t.Logf("%d of %d: %s: rebuilt in %v", i, points, said, took)
		} else {
			// Some notes are of what the node says meanwhile, which is more or less.
			all = max(10, min(all, k.n.Load()))
			t.Logf("rebuilt in %v, with fewer notes", took)
		}
	}
}
