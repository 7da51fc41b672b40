package packages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"
)

// grace is how long a program may take to end when it is asked to, and how
// long one that has ended may leave its output to a child of its.
const grace = 5 * time.Second

// environment is what the programs get, whatever the agent's own is like:
// nothing asks questions.
func (o Options) environment(extra []string, laterFirst bool) []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	if laterFirst {
		path = o.Later + ":" + path
	}
	return append([]string{"PATH=" + path, "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, extra...)
}

// command prepares a program. The agent's umask, working directory and signals
// are none of its business, nor that the kernel spares the agent when memory
// runs out.
func (o Options) command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	const enter = `umask 022; { echo 0 >/proc/self/oom_score_adj; } 2>/dev/null; exec "$0" "$@"`
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", enter, name}, args...)...)
	cmd.Dir = "/"
	cmd.Env = env
	cmd.WaitDelay = grace
	ownGroup(cmd)
	return cmd
}

// run runs a program that changes something. What it prints goes to the log;
// its last line is the error's.
func (o Options) run(ctx context.Context, env []string, name string, args ...string) error {
	return o.runTelling(ctx, nil, env, name, args...)
}

// runTelling gives each line to another listener as well, if there is one.
func (o Options) runTelling(ctx context.Context, each func(line string), env []string, name string, args ...string) error {
	if err := supported(); err != nil {
		return err
	}
	// To all but dpkg's scripts, systemctl and its like are the real ones.
	cmd := o.command(ctx, o.environment(env, name == "dpkg"), name, args...)
	out := &lines{log: o.Log.With("program", strings.Join(append([]string{name}, args...), " ")), each: each}
	cmd.Stdout, cmd.Stderr = out, out
	o.step()
	err := cmd.Run()
	out.end()
	o.step()
	return out.explain(ctx, err)
}

// output runs a program that only answers, and gives what it says and its exit
// code.
func (o Options) output(ctx context.Context, name string, args ...string) (string, int, error) {
	if err := supported(); err != nil {
		return "", -1, err
	}
	cmd := o.command(ctx, o.environment(nil, false), name, args...)
	var stdout bytes.Buffer
	said := &lines{log: slog.New(slog.DiscardHandler)}
	cmd.Stdout, cmd.Stderr = &stdout, said
	err := cmd.Run()
	said.end()
	return stdout.String(), cmd.ProcessState.ExitCode(), said.explain(ctx, err)
}

// lines logs what a program prints, line by line.
type lines struct {
	log  *slog.Logger
	each func(line string) // may be nil
	part []byte
	last string
}

// longest is how much of a line is kept, in bytes.
const longest = 400

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		if room := longest - len(l.part); room > 0 {
			l.part = append(l.part, line[:min(len(line), room)]...)
		}
		p = rest
		if whole {
			l.end()
		}
	}
	return n, nil
}

// end ends a line.
func (l *lines) end() {
	text := strings.ToValidUTF8(strings.TrimSpace(string(l.part)), "?")
	l.part = l.part[:0]
	if text != "" {
		l.last = text
		l.log.Info(text)
		if l.each != nil {
			l.each(text)
		}
	}
}

// explain gives a program's error in its last words.
func (l *lines) explain(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it has succeeded, and left a child
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case l.last == "":
		return err
	}
	return fmt.Errorf("%w: %s", err, l.last)
}
