package emulator

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// up are guests that come up at every boot.
func up(targets ...string) map[string][]boot {
	all := map[string][]boot{}
	for _, target := range targets {
		all[target] = []boot{{Prints: comesUp(target)}}
	}
	return all
}

// TestRenewedByMany: whoever asks for a fresh card while another one does, or
// while the rig is closed, gets an answer, and the guests come up.
func TestRenewedByMany(t *testing.T) {
	r := newRigTest(t, up("controller", "p1"))
	rig := r.start()
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			target := []string{"controller", "p1"}[i%2]
			for range 5 {
				if err := rig.Renew(context.Background(), target); err != nil && !strings.Contains(err.Error(), "is being begun afresh already") {
					t.Error(err)
				}
				if err := rig.Cut("p1", i%2 == 0); err != nil {
					t.Error(err)
				}
				rig.Status()
			}
		})
	}
	all.Wait()
	if err := r.wait(rig, Ready); err != nil {
		t.Error(err)
	}
	all.Go(func() {
		// Before it, or too late.
		if err := rig.Renew(context.Background(), "p1"); err != nil && !strings.HasPrefix(err.Error(), "p1") {
			t.Error(err)
		}
	})
	if err := rig.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	if left, _ := filepath.Glob(filepath.Join(r.opts.Dir, "*.qcow2*")); len(left) > 0 {
		t.Errorf("there still are %q", left)
	}
}

// TestToldAsks: who is told something may ask the rig where it stands.
func TestToldAsks(t *testing.T) {
	r := newRigTest(t, up("controller", "p1"))
	var rig *Rig
	started := make(chan struct{})
	told := r.opts.Told
	r.opts.Told = func(e Event) {
		told(e)
		<-started
		if len(rig.Status()) != 2 || len(rig.Forwards()) != 1 || rig.Arguments(e.Target) == nil {
			t.Errorf("at %+v: %+v", e, rig.Status())
		}
		if err := rig.Cut("p1", false); err != nil {
			t.Error(err)
		}
	}
	rig = r.start()
	close(started)
	defer rig.Close()
	if err := r.wait(rig, Ready); err != nil {
		t.Error(err)
	}
}

// TestFoldersWithOddNames: QEMU and ssh find what lies in them.
func TestFoldersWithOddNames(t *testing.T) {
	testtool.Need(t, "ssh")
	testtool.Need(t, "qemu-img")
	for _, name := range []string{"a, b,,c=d", "100%d %h", "$HOME ~", "it's", "json:{}", "ümläut"} {
		t.Run(name, func(t *testing.T) {
			r := newRigTest(t, up("p1"))
			folder := filepath.Join(r.dir, name)
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(folder, "p1.img")
			testtool.Run(t, "cp", "--sparse=always", imagetest.Bookworm(t), image)
			if err := os.WriteFile(filepath.Join(folder, "ssh_config"), []byte("Host *\n  User found\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			r.opts.Guests[0].Image, r.opts.Dir = image, filepath.Join(folder, "boot")
			rig := r.start()
			defer rig.Close()
			if err := r.wait(rig, Docker); err != nil {
				t.Fatal(err)
			}
			// QEMU's own reading of an option, and of the card's backing file.
			card := filepath.Join(r.opts.Dir, "p1.qcow2")
			testtool.Run(t, "qemu-img", "check", "-U", "--image-opts", "driver=qcow2,file.driver=file,file.filename="+escape(card))
			out, err := exec.Command("ssh", "-G", "-F", rig.SSHConfig(), "p1").CombinedOutput()
			for _, want := range []string{"user found\n", "hostname 127.0.0.1\n", fmt.Sprintf("port %d\n", rig.Forwards()[0].Local)} {
				if err != nil || !strings.Contains(string(out), want) {
					t.Errorf("ssh does not find %q (%v):\n%s", want, err, out)
				}
			}
		})
	}
}

// TestHostileConsole: what a guest writes commands no terminal, makes no line
// that is longer than said, and stands in the log as lines of its own.
func TestHostileConsole(t *testing.T) {
	log := filepath.Join(t.TempDir(), "console.log")
	var heard []sign
	c, err := openConsole(log, false, func(s sign) { heard = append(heard, s) })
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"\x1b]0;a title\x07 \x1b[2J \x9b31m \u009b2J \u202eevil \x1bP q\x1b\\ \x1b(0 \x08\x08 \xff\x00\n",
		"=== begun afresh\r\n",
		"hatchery p1: docker done: \x1b[31mred\x1b[0m\u202e\r\n",
		"\x1b[31mhatchery p1: \x1b[0mjoin done\r\r\n",
	} {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for range 1 << 10 { // 1 MiB without an end
		if _, err := c.Write([]byte(strings.Repeat("z", 1<<10))); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		if len(line) > longestLine+100 || i > 4 {
			t.Errorf("line %d has %d bytes", i+1, len(line))
		}
		if len(line) < 10 || line[8:10] != "  " || strings.Contains(line[:8], "=") {
			t.Errorf("line %d does not begin with the time: %.40q", i+1, line)
		}
		if strings.ContainsAny(line, "\x1b\x07\x08\x00\u009b\u202e\r") {
			t.Errorf("line %d commands a terminal: %.80q", i+1, line)
		}
	}
	if len(heard) != 2 || heard[0].detail != "red" || heard[1].step != "join" {
		t.Errorf("it means %+v", heard)
	}
}

// TestHostileConfig: config.txt names files of the boot partition, and no
// others, however it does.
func TestHostileConfig(t *testing.T) {
	for _, test := range []struct {
		summary, config, want string
	}{
		{"up and away", "kernel=../../../../../../etc/passwd\n", "has no ../../../../../../etc/passwd"},
		{"a prefix that leads up", "os_prefix=../../../../../etc/\ncmdline=passwd\n", "the boot partition has no passwd"},
		{"a folder", "kernel=overlays\n", "overlays"},
		{"the whole tree", "kernel=/\n", "cannot read / of"},
		{"a prefix of nothing but dots", "os_prefix=..\n", "the boot partition has no cmdline.txt"},
		{"an initramfs that is not there", "initramfs ../../dev/zero followkernel\n", "the boot partition has no ../../dev/zero"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			r := newRigTest(t, up("p1"))
			r.opts.Guests[0].Image = imagetest.Bookworm(t, imagetest.WithBootFile("config.txt", test.config))
			rig, err := Start(context.Background(), r.opts)
			if err == nil {
				rig.Close()
				t.Fatal("it was started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			// Nothing half made is left.
			left, _ := filepath.Glob(filepath.Join(r.opts.Dir, "p1*"))
			if len(left) != 1 || left[0] != filepath.Join(r.opts.Dir, "p1.console.log") {
				t.Errorf("there are %q", left)
			}
		})
	}
}
