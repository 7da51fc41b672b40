//go:build linux

package disk_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/internal/layer"
	"hatchery/netboot/disk"
)

// An op is what a node asks for.
type op struct {
	flush  bool
	off, n int64
	data   []byte // nil: a discard
}

func randomOp(rnd *rand.Rand, size int64) op {
	o := op{off: rnd.Int64N(size)}
	switch rnd.IntN(4) {
	case 0: // somewhere within a block or two
		o.n = rnd.Int64N(2*layer.BlockSize) + 1
	case 1, 2: // whole blocks
		o.off -= o.off % layer.BlockSize
		o.n = (rnd.Int64N(8) + 1) * layer.BlockSize
	default:
		o.n = rnd.Int64N(min(size/2, 256<<10)) + 1
	}
	o.n = min(o.n, size-o.off)
	if rnd.IntN(5) > 0 {
		o.data = noise(rnd, int(o.n))
	}
	return o
}

func (o op) model(content []byte) {
	switch {
	case o.flush:
	case o.data == nil:
		clear(content[o.off : o.off+o.n])
	default:
		copy(content[o.off:], o.data)
	}
}

func (o op) apply(d *disk.Disk) (err error) {
	switch {
	case o.flush:
		return d.Flush()
	case o.data == nil:
		return d.Discard(o.off, o.n)
	}
	_, err = d.WriteAt(o.data, o.off)
	return err
}

const victimSize = 4<<20 + 512

// numbered is the nth operation of all that a victim's disk sees in its life.
func numbered(n uint64) op {
	rnd := rand.New(rand.NewPCG(n, 31))
	if rnd.IntN(12) == 0 {
		return op{flush: true}
	}
	return randomOp(rnd, victimSize)
}

func victimParent() memory {
	return inMemory(noise(rand.New(rand.NewPCG(4, 4)), victimSize/2/512*512))
}

// victimOptions vary by round: journals that fill, disks that flush by themselves.
func victimOptions(round int) disk.Options {
	o := quiet
	if round%3 == 1 {
		o.JournalSize = 8 << 10
	}
	if round%4 == 2 {
		o.FlushEvery = 4 * time.Millisecond
	}
	return o
}

func TestMain(m *testing.M) {
	if path := os.Getenv("DISK_TEST_VICTIM"); path != "" {
		if err := victim(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// victim does operation after operation until it is killed, and tells of each
// when it was acknowledged.
func victim(path string) error {
	first, err := strconv.ParseUint(os.Getenv("DISK_TEST_FIRST"), 10, 64)
	if err != nil {
		return err
	}
	round, err := strconv.Atoi(os.Getenv("DISK_TEST_ROUND"))
	if err != nil {
		return err
	}
	d, err := disk.Open(path, path+".journal", victimParent(), victimOptions(round))
	if err != nil {
		return err
	}
	how, _ := d.Recovered()
	fmt.Println("opened", how)
	for n := first; ; n++ {
		if err := numbered(n).apply(d); err != nil {
			return err
		}
		if _, err := fmt.Println(n); err != nil {
			return err
		}
	}
}

// TestKill kills a process that serves a disk, again and again. With the
// journal, all is there that was acknowledged; of the operation under way each
// byte is old or new. Without it, as after a loss of power, the content is
// that after some operation since the last flush that was acknowledged, whole:
// that flush, or one that the disk made by itself.
func TestKill(t *testing.T) {
	rounds := 24
	if os.Getenv("HATCHERY_SOAK") != "" {
		rounds = 2000
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := victimParent()
	path := filepath.Join(t.TempDir(), "victim")
	content := make([]byte, victimSize)
	copy(content, parent.content)
	d, err := disk.Create(path, path+".journal", parent, victimSize, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	flushed := append([]byte(nil), content...) // the content at the last acknowledged flush
	flushedAt := uint64(0)                     // which operation that was
	torn := map[uint64]bool{}                  // operations that a kill cut short
	next := uint64(1)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	midway, replayed := 0, 0
	for round := range rounds {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "DISK_TEST_VICTIM="+path, fmt.Sprint("DISK_TEST_FIRST=", next), fmt.Sprint("DISK_TEST_ROUND=", round))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		hello, err := lines.ReadString('\n')
		if want := map[bool]string{true: "opened clean\n", false: "opened replayed\n"}[round == 0]; err != nil || hello != want {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("round %d: %q, %v: %s", round, hello, err, stderr.String())
		}
		kill := rnd.IntN(60)
		told := 0
		for i := 0; ; i++ {
			if i == kill {
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Microsecond)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
			if err != nil || n != next {
				t.Fatalf("round %d: told %q, want %d", round, line, next)
			}
			done := numbered(n)
			done.model(content)
			if done.flush {
				flushed, flushedAt = append(flushed[:0], content...), n
			}
			next++
			told++
		}
		cmd.Wait()
		if told == 0 && kill > 0 {
			t.Fatalf("round %d: the child did nothing: %s", round, stderr.String())
		}
		under := numbered(next)
		torn[next] = true

		// The power failed: what the file has, without the journal.
		left := somewhere(t)
		copyFile(t, left.path, path)
		bare := open(t, left, parent, quiet)
		got := contentOf(t, bare)
		bare.Abandon()
		model := append([]byte(nil), flushed...)
		found := bytes.Equal(got, model)
		for n := flushedAt + 1; n <= next && !found; n++ {
			after := append([]byte(nil), model...)
			numbered(n).model(after)
			found = bytes.Equal(got, after) || torn[n] && between(got, model, after) < 0
			model = after
		}
		if !found {
			t.Fatalf("round %d, operation %d: without its journal, the disk has no content since the last flush", round, next)
		}

		// The process was killed.
		copyFile(t, left.path, path)
		copyFile(t, left.journal, path+".journal")
		d := open(t, left, parent, quiet)
		how, n := d.Recovered()
		if how != layer.Replayed {
			t.Fatalf("round %d: the journal was %s", round, how)
		}
		if n > 0 {
			replayed++
		}
		got = contentOf(t, d)
		wish := append([]byte(nil), content...)
		under.model(wish)
		if at := between(got, content, wish); at >= 0 {
			t.Fatalf("round %d, operation %d: byte %d is neither what was acknowledged nor what was under way", round, next, at)
		}
		if !bytes.Equal(got, content) {
			midway++
		}
		d.Abandon()
		// The next child does the operation under way anew, as the node would,
		// which did not hear of it.
	}
	t.Logf("%d operations, %d kills, %d amid a write, %d with changes in the journal", next, rounds, midway, replayed)
	if replayed < rounds/4 {
		t.Errorf("only %d of %d kills left changes in the journal", replayed, rounds)
	}
}

// between gives the first byte of p that is neither a's nor b's; -1 if there
// is none.
func between(p, a, b []byte) int {
	for i := range p {
		if p[i] != a[i] && p[i] != b[i] {
			return i
		}
	}
	return -1
}
