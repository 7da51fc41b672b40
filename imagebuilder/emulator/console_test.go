package emulator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMeaning(t *testing.T) {
	for _, c := range []struct {
		summary, line string
		want          sign
		none          bool
	}{
		{summary: "the kernel's first word", line: "[    0.000000] Booting Linux on physical CPU 0x0", want: sign{phase: Kernel}},
		{summary: "init", line: "[   12.956957] systemd[1]: systemd 252.39-1~deb12u2 running in system mode (+PAM", want: sign{phase: System}},
		{summary: "the agent", line: "hatchery p1: the agent devel runs", want: sign{phase: Agent}},
		{summary: "a step is done", line: "hatchery p1: grow done: the file system of mmcblk0p2 has 1532 of 1532 MiB",
			want: sign{phase: Agent, step: "grow", state: "done", detail: "the file system of mmcblk0p2 has 1532 of 1532 MiB"}},
		{summary: "a step without more words", line: "hatchery p1: backups done", want: sign{phase: Agent, step: "backups", state: "done"}},
		{summary: "behind what init shows", line: "[  OK  ] hatchery oneil-3.example: join waiting: waits: for it",
			want: sign{phase: Agent, step: "join", state: "waiting", detail: "waits: for it"}},
		{summary: "what the agent says beside its steps", line: "hatchery p1: the clock was 1970-01-01T00:00:09Z and is set", none: true},
		{summary: "a unit's description is no step", line: "         Starting hatchery-firstboot… its cluster, and keep it there...", none: true},
		{summary: "the prompt", line: "p1 login:", want: sign{phase: LogIn}},
		{summary: "a log-in that was typed", line: "p1 login: pi", none: true},
		{summary: "a panic", line: "[    0.78] Kernel panic - not syncing: Attempted to kill init!", want: sign{fatal: "the kernel panics: Attempted to kill init!"}},
		{summary: "a busy kernel", line: "[ 382.1] watchdog: BUG: soft lockup - CPU#0 stuck for 150s! [systemd:1]",
			want: sign{warning: "watchdog: BUG: soft lockup - CPU#0 stuck for 150s! [systemd:1]"}},
		{summary: "emergency mode", line: "You are in emergency mode. After logging in, type \"journalctl -xb\"", want: sign{fatal: "the system did not come up: it asks on its console what to do"}},
		{summary: "switched off", line: "[  231.101] reboot: Power down", want: sign{off: true}},
		{summary: "a reboot is no end", line: "[  231.101] reboot: Restarting system", none: true},
	} {
		t.Run(c.summary, func(t *testing.T) {
			got, ok := meaning(c.line)
			if ok == c.none {
				t.Fatalf("meaning(%q) = %+v, %v", c.line, got, ok)
			}
			if d := cmp.Diff(c.want, got, cmp.AllowUnexported(sign{})); d != "" {
				t.Error(d)
			}
		})
	}
}

// The bytes of a serial port come in any pieces, with the colours and movements of a
// terminal in them.
func TestConsole(t *testing.T) {
	const sent = "[    0.000000] Booting Linux on physical CPU 0x0\r\n" +
		"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mssh.service\x1b[0m - OpenBSD.\r\n" +
		"\x1b[K[\x1b[0;31m*     \x1b[0m] (1 of 2) Job ssh.service/start running (3s / 1min)\r\n" +
		"\r\n\x00\xff\r\n" +
		"\r\nRaspbian GNU/Linux 12 p1 ttyAMA0\r\n\r\np1 login: hatchery p1: docker done: Docker 20.10.24\r\n"
	for _, size := range []int{1, 2, 7, 64, len(sent)} {
		path := filepath.Join(t.TempDir(), "console.log")
		var signs []sign
		c, err := openConsole(path, false, func(s sign) { signs = append(signs, s) })
		if err != nil {
			t.Fatal(err)
		}
		for rest := []byte(sent); len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := c.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]sign{{phase: Kernel}, {phase: LogIn}, {phase: Agent, step: "docker", state: "done", detail: "Docker 20.10.24"}}, withoutCuts(signs), cmp.AllowUnexported(sign{})); d != "" {
			t.Errorf("in pieces of %d bytes: %s", size, d)
		}
		log, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(log)) {
			_, text, _ := strings.Cut(strings.TrimSpace(line), "  ")
			lines = append(lines, text)
		}
		want := []string{
			"[    0.000000] Booting Linux on physical CPU 0x0",
			"[  OK  ] Started ssh.service - OpenBSD.",
			"Raspbian GNU/Linux 12 p1 ttyAMA0",
			"p1 login: hatchery p1: docker done: Docker 20.10.24",
		}
		if d := cmp.Diff(want, lines); d != "" {
			t.Errorf("in pieces of %d bytes: %s", size, d)
		}
	}
}

// withoutCuts drops a prompt that was told twice, of a piece and of its line.
func withoutCuts(signs []sign) []sign {
	var kept []sign
	for i, s := range signs {
		if i == 0 || s != signs[i-1] {
			kept = append(kept, s)
		}
	}
	return kept
}

// A guest that says one thing for ever fills no disk, and is heard all the same.
func TestLogEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	heard := 0
	c, err := openConsole(path, false, func(sign) { heard++ })
	if err != nil {
		t.Fatal(err)
	}
	c.largest = 1000
	for range 100 {
		c.Write([]byte("a line of thirty bytes or more\n"))
	}
	c.Write([]byte("p1 login: "))
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(log) > 1200 || !strings.HasSuffix(string(log), "=== the log ends here, since it is large enough; what comes is still read\n") {
		t.Errorf("%d bytes, which end with %q", len(log), log[max(0, len(log)-100):])
	}
	if heard == 0 {
		t.Error("what came later was not read")
	}
}

// What QEMU says at its end is what counts.
func TestLastWords(t *testing.T) {
	var said lastWords
	for range 10000 {
		said.Write([]byte("warning\n"))
	}
	said.Write([]byte(strings.Repeat("x", 2*mostLastWords) + "\nout of memory\n"))
	if len(said.String()) != mostLastWords || lastLine(said.String()) != "out of memory" {
		t.Errorf("%d bytes, of which the last line is %q", len(said.String()), lastLine(said.String()))
	}
}

// The kernel reads no more, and says nothing of what it leaves out.
func TestCmdlineIsWhole(t *testing.T) {
	added := []Argument{{Word: "added=1"}}
	whole := strings.Repeat("a", longestCmdline-len(" added=1"))
	if line, err := cmdline([]byte(whole+"\n"), added); err != nil || line != whole+" added=1" {
		t.Errorf("%d bytes, %v", len(line), err)
	}
	if _, err := cmdline([]byte(whole+"a\n"), added); err == nil || !strings.Contains(err.Error(), "1024 bytes") {
		t.Errorf("one more: %v", err)
	}
}

// Nothing that a guest prints may fill the memory or stop the console.
func FuzzConsole(f *testing.F) {
	f.Add([]byte("\x1b[31mhatchery p1: join done\r\np1 login: "))
	f.Add([]byte("\r\r\n\n\x1b\x1b["))
	f.Fuzz(func(t *testing.T, sent []byte) {
		c, err := openConsole(filepath.Join(t.TempDir(), "c"), false, func(sign) {})
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		if n, err := c.Write(sent); n != len(sent) || err != nil {
			t.Fatalf("%d of %d bytes: %v", n, len(sent), err)
		}
		if len(c.part) > longestLine || len(c.last) > kept {
			t.Fatal("it keeps too much")
		}
		for _, line := range c.lines() {
			if strings.ContainsAny(line, "\x1b\x07\x00\r\n") {
				t.Errorf("a control character in %q", line)
			}
		}
	})
}
