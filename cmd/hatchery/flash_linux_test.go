package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// blankCard is a file that stands for a card, in the workspace.
func (w *workspace) blankCard(name string, size int64) string {
	w.t.Helper()
	w.write(name, "")
	if err := os.Truncate(w.path(name), size); err != nil {
		w.t.Fatal(err)
	}
	return w.path(name)
}

// noiseImage is a partitioned image that is full, of which nobody knows what
// is in use: all of it is written.
func (w *workspace) noiseImage(name string, size int64) string {
	w.t.Helper()
	f, err := os.Create(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		w.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		w.t.Fatal(err)
	}
	table := exec.Command(testtool.Need(w.t, "sfdisk"), "--quiet", "--wipe", "never", f.Name())
	table.Stdin = strings.NewReader("label: dos\n2048,,83\n")
	if out, err := table.CombinedOutput(); err != nil {
		w.t.Fatalf("sfdisk: %v: %s", err, out)
	}
	return f.Name()
}

// TestFlashKilled kills a flash at random moments. After none of them does the
// card boot unless it is whole, and the next run makes it so.
func TestFlashKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("a dozen flashes")
	}
	const size = 192 << 20
	w := newWorkspace(t, "./base.img", "")
	image := w.noiseImage("noise.img", size)
	card := w.blankCard("card.img", size+(64<<20))

	binary(t) // not while the clock runs
	begun := time.Now()
	w.hatchery("flash", "-q", "noise.img", "--to", card, "--yes")
	took := time.Since(begun)
	seed := uint64(time.Now().UnixNano())
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	killed, unfinished := 0, 0
	for round := range 10 {
		if round%2 == 0 { // from the start; else on what the kill before has left
			if err := os.Truncate(card, 0); err != nil {
				t.Fatal(err)
			}
			w.blankCard("card.img", size+(64<<20))
		}
		cmd := w.command("flash", "-q", "noise.img", "--to", card, "--yes")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(took) + 1)))
		cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		} else {
			took /= 2 // the first one was a slow one: kill earlier
		}
		switch whole := sameBytes(t, card, image, size); {
		case whole:
		case bootable(t, card):
			t.Fatalf("seed %d, round %d: a card that is not whole has a partition table", seed, round)
		default:
			unfinished++
		}
	}
	w.hatchery("flash", "-q", "noise.img", "--to", card, "--yes")
	if !sameBytes(t, card, image, size) {
		t.Fatalf("seed %d: the card is not the image after the last run", seed)
	}
	if killed < 3 || unfinished < 2 {
		t.Fatalf("%d of 10 were killed, %d left the card unfinished: the test shows nothing", killed, unfinished)
	}
	t.Logf("seed %d: %d of 10 killed, %d left the card unfinished", seed, killed, unfinished)
}

func bootable(t *testing.T, card string) bool {
	t.Helper()
	head := make([]byte, 512)
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return head[510] == 0x55 && head[511] == 0xaa
}

// sameBytes compares the first n bytes of two files.
func sameBytes(t *testing.T, a, b string, n int64) bool {
	t.Helper()
	left, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	right, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer right.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < n; off += int64(len(x)) {
		k := min(n-off, int64(len(x)))
		if _, err := left.ReadAt(x[:k], off); err != nil {
			t.Fatal(err)
		}
		if _, err := right.ReadAt(y[:k], off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x[:k], y[:k]) {
			return false
		}
	}
	return true
}

// TestFlashInterruptedByTheUser presses ^C on a terminal, in the middle.
func TestFlashInterruptedByTheUser(t *testing.T) {
	const size = 384 << 20
	w := newWorkspace(t, "./base.img", "")
	image := w.noiseImage("noise.img", size)
	card := w.blankCard("card.img", size)
	master, tty := testtool.Terminal(t, 24, 100)
	cmd := w.command("flash", "noise.img", "--to", card)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	io.WriteString(master, "n\n") // an answer before there is a question is none
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	hung := time.AfterFunc(5*time.Minute, func() { cmd.Process.Signal(unix.SIGQUIT) })
	defer hung.Stop()
	var shown bytes.Buffer
	pieces := make([]byte, 4096)
	answered, interrupted := false, false
	for {
		n, err := master.Read(pieces)
		shown.Write(pieces[:n])
		if !answered && strings.Contains(shown.String(), "Write?") {
			answered = true
			io.WriteString(master, "y\n")
		}
		if !interrupted && regexp.MustCompile(`write noise\.img .*MiB`).MatchString(shown.String()) {
			interrupted = true
			cmd.Process.Signal(os.Interrupt)
		}
		if err != nil {
			break // EIO: the other end is closed
		}
	}
	var exited *exec.ExitError
	if err := cmd.Wait(); err == nil || !asExit(err, &exited) || exited.ExitCode() != exitFailed {
		t.Fatalf("it ended with %v\n%s", err, shown.String())
	}
	if want := "interrupted: noise.img's card is not finished and will not boot; the same command goes on where it was"; !strings.Contains(shown.String(), want) {
		t.Errorf("no %q in\n%s", want, shown.String())
	}
	if bootable(t, card) {
		t.Error("the card has a partition table")
	}
	if head := string(readFile(t, card)[:512]); !strings.Contains(head, "hatchery") {
		t.Errorf("the card does not say what it is: %q", head)
	}
	out := w.hatchery("flash", "-q", "noise.img", "--to", card, "--yes")
	if !sameBytes(t, card, image, size) {
		t.Error("the next run did not finish it")
	}
	if !strings.Contains(out, "differed and were written") {
		t.Errorf("the next run did not go on, but began anew: %s", out)
	}
}

func asExit(err error, into **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*into = e
	return ok
}

// TestFlashNotOntoItself names a loop device over the image that is read, and a
// file of the output folder by another way.
func TestFlashNotOntoItself(t *testing.T) {
	testtool.NeedRoot(t)
	w := newWorkspace(t, imagetest.Bookworm(t), "")
	w.hatchery("build", "-q", "--no-sums")
	if err := os.Symlink(w.path("out"), w.path("elsewhere")); err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(testtool.Run(t, "losetup", "--find", "--show", w.path("out/p2.img")))
	t.Cleanup(func() { testtool.Run(t, "losetup", "--detach", device) })
	before := digestOf(t, w.path("out/p2.img"))
	for _, args := range [][]string{
		{"out/p2.img", "--to", device}, {"p1", "--to", device}, {"p1", "--to", "elsewhere/p2.img"}, {"p1", "-o", "elsewhere", "--to", "out/p2.img"},
	} {
		out, err := w.command(append([]string{"flash", "--yes"}, args...)...).CombinedOutput()
		var exited *exec.ExitError
		if !asExit(err, &exited) || exited.ExitCode() != exitUsage {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	if digestOf(t, w.path("out/p2.img")) != before {
		t.Error("it was written to")
	}
}

// loopCard is a loop device that stands for a card.
func loopCard(t *testing.T, w *workspace, size int64) string {
	t.Helper()
	testtool.NeedRoot(t)
	file := w.blankCard("loop.img", size)
	device := strings.TrimSpace(testtool.Run(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() { testtool.Run(t, "losetup", "--detach", device) })
	return device
}

// TestFlashOntoADevice has the tools that make and check partitions and file
// systems judge a device that was flashed, as root would and as one would who
// calls sudo.
func TestFlashOntoADevice(t *testing.T) {
	testtool.NeedRoot(t)
	base := imagetest.Bookworm(t)
	for _, sudo := range []bool{false, true} {
		t.Run(map[bool]string{false: "as root", true: "by sudo"}[sudo], func(t *testing.T) {
			w := newWorkspace(t, "./base.img", "")
			in, err := os.Open(base)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			f, err := os.Create(w.path("base.img"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(f, in); err != nil {
				t.Fatal(err)
			}
			f.Close()
			w.hatchery("build", "-q", "--no-sums")
			giveAway(t, w)
			const size = 1 << 30
			device := loopCard(t, w, size)
			cmd := w.command("flash", "p1", "--to", device, "--yes")
			if sudo {
				cmd.Env = append(cmd.Env, "SUDO_UID="+strconv.Itoa(nobody), "SUDO_GID="+strconv.Itoa(nobody), "SUDO_USER=nobody")
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !strings.Contains(string(out), "read back, all of it right") {
				t.Errorf("%s", out)
			}
			sameAsImage(t, device, w.path("out/p1.img"))
			parts := regexp.MustCompile(`start= *(\d+), size= *(\d+)`).FindAllStringSubmatch(testtool.Run(t, "sfdisk", "--dump", device), -1)
			if len(parts) != 2 {
				t.Fatalf("sfdisk finds %d partitions", len(parts))
			}
			start, _ := strconv.ParseInt(parts[1][1], 10, 64)
			length, _ := strconv.ParseInt(parts[1][2], 10, 64)
			if end := (start + length) * 512; end > size || end < size-(8<<20) {
				t.Errorf("the root partition ends at %d of %d", end, int64(size))
			}
			testtool.Run(t, "sfdisk", "--verify", device)
			testtool.Run(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", device, start*512))
			fat, _ := strconv.ParseInt(parts[0][1], 10, 64)
			testtool.Run(t, "mdir", "-i", fmt.Sprintf("%s@@%d", device, fat*512), "::config.txt")
			if sudo { // nothing of root's lies among the user's files
				err := filepath.WalkDir(w.dir, func(path string, entry os.DirEntry, err error) error {
					if err != nil {
						return err
					}
					info, err := entry.Info()
					if err == nil && info.Sys().(*syscall.Stat_t).Uid != nobody && filepath.Base(path) != "loop.img" {
						t.Errorf("%s is root's", path)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
			// The system's own device is refused, with the same rights.
			cmd = w.command("flash", "p1", "--to", rootDevice(t), "--yes")
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "this machine runs from it") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// rootDevice is the disk that this machine runs from.
func rootDevice(t *testing.T) string {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Stat("/", &stat); err != nil {
		t.Fatal(err)
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)))
	if err != nil {
		t.Skipf("the root lies on no disk: %v", err) // a container's overlay
	}
	name := filepath.Base(link)
	if _, err := os.Stat("/sys/block/" + name); err != nil {
		name = filepath.Base(filepath.Dir(link))
	}
	return "/dev/" + name
}
