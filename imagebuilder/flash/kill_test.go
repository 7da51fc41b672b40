package flash_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"hatchery/imagebuilder/flash"
)

// fileCard is a file that stands for a card. Every write takes a while.
type fileCard struct {
	*os.File
	size int64
	slow time.Duration
}

func (f *fileCard) Size() int64                { return f.size }
func (f *fileCard) BlockSize() int             { return 512 }
func (f *fileCard) Discard(off, n int64) error { return nil }
func (f *fileCard) WriteAt(p []byte, off int64) (int, error) {
	time.Sleep(f.slow)
	return f.File.WriteAt(p, off)
}

func openFileCard(t testing.TB, path string, slow time.Duration) *fileCard {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	succeed(t, err)
	t.Cleanup(func() { f.Close() })
	size, err := f.Seek(0, io.SeekEnd)
	succeed(t, err)
	return &fileCard{f, size, slow}
}

const cardVariable = "HATCHERY_TEST_FLASH_CARD"

func killed() *image { return newImage(21<<20, 6, 1) }

// TestFlashForKill is the process that TestKill kills.
func TestFlashForKill(t *testing.T) {
	path := os.Getenv(cardVariable)
	if path == "" {
		t.Skip("runs in a process of TestKill's")
	}
	write(t, openFileCard(t, path, 4*time.Millisecond), killed(), flash.Options{Grow: true})
}

// TestKill kills a process that flashes, again and again, each time a little
// later, until one is through.
func TestKill(t *testing.T) {
	im := killed()
	path := filepath.Join(t.TempDir(), "card")
	sold := newCard(t, 30<<20).data
	copy(sold, im.changed(1, 2, 3).data)
	succeed(t, os.WriteFile(path, sold, 0o600))
	kills, unfinished, whole := 0, 0, 0
	for later := 20 * time.Millisecond; ; {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFlashForKill$", "-test.count=1")
		cmd.Env = append(os.Environ(), cardVariable+"="+path)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		succeed(t, cmd.Start())
		// The process looks first; what follows the note is what counts.
		wait := time.AfterFunc(later, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		wait.Stop()
		data, readErr := os.ReadFile(path)
		succeed(t, readErr)
		c := &memory{t: t, block: 512, data: data}
		if err == nil {
			holds(t, c, im)
			if whole++; unfinished >= 2 || whole == 5 {
				break
			}
			// It got through because a kill came late: once more.
			succeed(t, os.WriteFile(path, sold, 0o600))
			later = 20 * time.Millisecond
			continue
		}
		if cmd.ProcessState.Exited() {
			t.Fatalf("the process failed by itself: %v\n%s", err, out.String())
		}
		kills++
		later += 12 * time.Millisecond
		switch {
		case bytes.Equal(data, sold):
		case boots(c) && len(differences(c, im)) > 0:
			t.Fatalf("killed %d times, the card boots and is not whole", kills)
		default:
			unfinished++
		}
	}
	t.Logf("killed %d times, %d of them with the card unfinished", kills, unfinished)
	if unfinished < 2 {
		t.Errorf("of %s kills only %d came while the card was written", strconv.Itoa(kills), unfinished)
	}
}
