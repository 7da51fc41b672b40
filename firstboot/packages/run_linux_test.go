package packages_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/firstboot/packages"
)

// tools puts programs into the PATH that stand for dpkg and systemd, and
// makes a node's state with one script to run.
func tools(t *testing.T, script string) packages.Options {
	t.Helper()
	dir := t.TempDir()
	program := func(name, text string) string {
		name = filepath.Join(dir, "bin", name)
		write(t, name, "#!/bin/sh\n"+text+"\n")
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
		return name
	}
	program("dpkg", `echo "Debian 'dpkg' package management program version 1.21.22 (amd64)."`)
	program("dpkg-query", "exit 0")
	program("systemctl", "exit 0")
	preinst := program("preinst", "cd "+dir+"\n"+script)
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	write(t, filepath.Join(dir, "packages/pending"), "x\n")
	write(t, filepath.Join(dir, "packages/scripts"), "x all preinst "+preinst+" install\n")
	return packages.Options{StateDir: dir, Later: filepath.Join(dir, "later"), Calls: filepath.Join(dir, "run/later")}
}

// TestEnded: a step that is to end takes with it what it has started.
func TestEnded(t *testing.T) {
	o := tools(t, "sleep 1000 & echo $! >sleeper.new; mv sleeper.new sleeper; wait")
	sleeper := filepath.Join(o.StateDir, "sleeper")
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- packages.Configure(ctx, o) }()
	var pid int
	wait(t, "the script runs", func() bool {
		text, err := os.ReadFile(sleeper)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	wait(t, "what the script has started ends", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(text), ") Z ") || unix.Kill(pid, 0) != nil
	})
	if _, err := os.Stat(filepath.Join(o.StateDir, "packages/pending")); err != nil {
		t.Errorf("nothing is pending: %v", err)
	}
	if _, err := os.Stat(filepath.Join(o.StateDir, "packages/done")); err == nil {
		t.Error("the script is noted as done")
	}
}

// TestChildKeepsOutput: a script that leaves something running, which keeps
// the output open, is waited for no longer than for itself.
func TestChildKeepsOutput(t *testing.T) {
	o := tools(t, "sleep 1000 & echo $! >sleeper")
	err := packages.Configure(context.Background(), o)
	text, rerr := os.ReadFile(filepath.Join(o.StateDir, "sleeper"))
	if rerr != nil {
		t.Fatal(rerr, err)
	}
	pid, perr := strconv.Atoi(strings.TrimSpace(string(text)))
	if perr != nil {
		t.Fatal(perr)
	}
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(o.StateDir, "packages/rest")); err != nil {
		t.Errorf("not configured: %v", err)
	}
}

// TestOutput: whatever a program prints, the log gets lines of a length that
// can be read, and the error the last of them.
func TestOutput(t *testing.T) {
	o := tools(t, `head -c 3000000 /dev/zero | tr '\0' x; printf '\n\377\n\n'; printf 'no end of the line'; echo; cat /proc/self/oom_score_adj; printf 'the last words' >&2; exit 3`)
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	write(t, "/proc/self/oom_score_adj", "100")
	t.Cleanup(func() { write(t, "/proc/self/oom_score_adj", "0") })
	err := packages.Configure(context.Background(), o)
	if err == nil || !strings.HasSuffix(err.Error(), "preinst of package x has failed: exit status 3: the last words: no package is configured") {
		t.Errorf("it says: %v", err)
	}
	var messages []string
	for line := range strings.Lines(log.String()) {
		_, message, _ := strings.Cut(line, "msg=")
		message, _, _ = strings.Cut(message, " program=")
		messages = append(messages, message)
	}
	want := fmt.Sprintf("%s|?|\"no end of the line\"|0|\"the last words\"", strings.Repeat("x", 400))
	if got := strings.Join(messages, "|"); got != want {
		t.Errorf("log:\n%s\nwant:\n%s", got, want)
	}
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after a minute: %s", what)
		}
	}
}
