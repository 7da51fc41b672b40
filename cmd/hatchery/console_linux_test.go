package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/controller/console"
	"hatchery/internal/testtool"
)

// newConsoles runs a service of consoles on a socket, of p1, which is not there,
// and p2, whose node's end it gives.
func newConsoles(t *testing.T) (socket string, node *os.File) {
	t.Helper()
	dir := t.TempDir()
	node, tty := testtool.Terminal(t, 24, 80)
	name := tty.Name()
	tty.Close()
	s, err := console.New(console.Options{
		Slots: []int{1, 2}, Dir: filepath.Join(dir, "console"), Every: 5 * time.Millisecond,
		Device: func(slot int) string {
			if slot == 2 {
				return name
			}
			return filepath.Join(dir, "ttypi1")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "hatchery.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: s.Calls(), BaseContext: func(net.Listener) context.Context { return ctx }}
	var all sync.WaitGroup
	all.Go(func() { s.Run(ctx) })
	all.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { cancel(); server.Close(); all.Wait() })
	for deadline := time.Now().Add(time.Minute); !s.Views()[1].Open; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s.Views())
		}
	}
	if _, err := node.WriteString("\x1b[32mRaspbian\x1b[0m\r\np2 login: \x1b[c"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); len(s.Last(2, 9)) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s.Views())
		}
	}
	return socket, node
}

func TestConsoleWithoutATerminal(t *testing.T) {
	socket, _ := newConsoles(t)
	for _, test := range []struct {
		args   string
		code   int
		stdout []string
		stderr string
	}{
		{args: "console", stdout: []string{"p1     -", "p2     there     1 KiB      p2 login:"}},
		{args: "console --json", stdout: []string{`"name": "p2"`, `"open": true`}},
		{args: "console p2 --log", stdout: []string{"\nRaspbian\np2 login: "}},
		{args: "console p2 --log --json", stdout: []string{`"slot": "p2"`, `"Raspbian",`}},
		{args: "console p1 --log"},
		{args: "console p2", code: exitUsage, stderr: "wants a terminal"},
		{args: "console p2 --json", code: exitUsage, stderr: "a console is no JSON"},
		{args: "console p2 --watch --json", code: exitUsage, stderr: "a console is no JSON"},
		{args: "console --log", code: exitUsage, stderr: "name the slot"},
		{args: "console --take", code: exitUsage, stderr: "name the slot"},
		{args: "console p1 p2", code: exitUsage, stderr: "name one slot"},
		{args: "console two", code: exitUsage, stderr: "two"},
		{args: "console p2 --log --watch", code: exitUsage, stderr: "one is enough"},
		{args: "console p9 --log", code: exitUsage, stderr: "p9 is not a slot of this cluster"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), append(strings.Fields(test.args), "--socket", socket), &stdout, &stderr)
		if code != test.code || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%s: exit code %d, %s", test.args, code, stderr.String())
		}
		for _, want := range test.stdout {
			if !strings.Contains(stdout.String(), want) {
				t.Errorf("%s prints\n%s\nwithout %q", test.args, stdout.String(), want)
			}
		}
		if strings.Contains(stdout.String(), "\x1b") {
			t.Errorf("%s commands the terminal: %q", test.args, stdout.String())
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"console", "p2", "--log", "--socket", filepath.Join(t.TempDir(), "none")}, &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "--on") {
		t.Errorf("without a service: %d, %s", code, stderr.String())
	}
}

// A person is the person at a terminal on which a program runs.
type person struct {
	t      *testing.T
	screen *os.File // the terminal's other end
	tty    *os.File
	mu     sync.Mutex
	shown  bytes.Buffer
	cmd    *exec.Cmd
	ended  chan error
}

func newPerson(t *testing.T, cmd *exec.Cmd) *person {
	t.Helper()
	p := &person{t: t, cmd: cmd, ended: make(chan error, 1)}
	p.screen, p.tty = testtool.Terminal(t, 24, 80)
	t.Cleanup(func() { p.tty.Close() })
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.tty, p.tty, p.tty
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	go func() { p.ended <- cmd.Wait() }()
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := p.screen.Read(buffer)
			p.mu.Lock()
			p.shown.Write(buffer[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *person) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown.String()
}

func (p *person) sees(want string) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(p.text(), want); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%q is not seen in %q", want, p.text())
		}
	}
}

func (p *person) types(keys string) {
	p.t.Helper()
	if _, err := p.screen.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// attached waits until the terminal is the node's: what is typed before is a line of the
// terminal's own, with another end than Return.
func (p *person) attached() {
	p.t.Helper()
	p.sees("[hatchery: the console of p2;")
	raw := func() bool {
		now, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
		return err == nil && now.Lflag&unix.ISIG == 0
	}
	for deadline := time.Now().Add(time.Minute); !raw(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatal("the terminal is not the node's")
		}
	}
}

// ends waits for the program's end, and gives its exit code.
func (p *person) ends() int {
	p.t.Helper()
	select {
	case err := <-p.ended:
		var exit *exec.ExitError
		switch {
		case err == nil:
			return 0
		case errors.As(err, &exit):
			return exit.ExitCode()
		}
		p.t.Fatal(err)
	case <-time.After(time.Minute):
		p.t.Fatalf("the program does not end; it shows %q", p.text())
	}
	return 0
}

// hears reads what the node is sent until all of it ends in want.
func hears(t *testing.T, node *os.File, want string) string {
	t.Helper()
	var all []byte
	buffer := make([]byte, 256)
	hung := time.AfterFunc(time.Minute, func() { node.Close() })
	defer hung.Stop()
	for !strings.HasSuffix(string(all), want) {
		n, err := node.Read(buffer)
		if err != nil {
			t.Fatalf("the node got %q, and then %v", all, err)
		}
		all = append(all, buffer[:n]...)
	}
	return string(all)
}

// TestConsoleAttached has a person at a terminal log in to a node: what was said
// before is harmless, every key reaches the node, the node's words reach the
// screen as they are, and the terminal is as it was afterwards.
func TestConsoleAttached(t *testing.T) {
	socket, node := newConsoles(t)
	w := &workspace{t: t, dir: t.TempDir()}
	p := newPerson(t, w.command("console", "p2", "--socket", socket))
	before, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	p.sees("[hatchery: the console of p2;")
	if text := p.text(); !strings.Contains(text, "Raspbian\r\np2 login: ") || strings.Contains(text, "\x1b") {
		t.Errorf("it shows %q", text)
	}
	p.attached()
	p.types("pi\r\x03\x04~x\r~?")
	if got := hears(t, node, "~x\r"); got != "pi\r\x03\x04~x\r" {
		t.Errorf("the node got %q", got)
	}
	p.sees("~~  one ~")
	if _, err := node.WriteString("\x1b[2JPassword: "); err != nil {
		t.Fatal(err)
	}
	p.sees("\x1b[2JPassword: ")

	second := newPerson(t, w.command("console", "p2", "--socket", socket))
	second.sees("--take takes it over")
	if code := second.ends(); code != exitFailed {
		t.Errorf("a second one ends with %d", code)
	}

	p.types("\r~.")
	if code := p.ends(); code != 0 {
		t.Errorf("it ends with %d, %q", code, p.text())
	}
	p.sees("[hatchery: left the console of p2]")
	after, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil || after.Lflag != before.Lflag || after.Iflag != before.Iflag || after.Oflag != before.Oflag {
		t.Errorf("the terminal was %+v and is %+v, %v", before, after, err)
	}
}

// TestConsoleTaken has one person let another go.
func TestConsoleTaken(t *testing.T) {
	socket, node := newConsoles(t)
	w := &workspace{t: t, dir: t.TempDir()}
	first := newPerson(t, w.command("console", "p2", "--socket", socket))
	first.sees("[hatchery: the console of p2;")
	second := newPerson(t, w.command("console", "p2", "--take", "--socket", socket))
	second.attached()
	first.sees("somebody else has taken this console")
	if code := first.ends(); code != exitFailed {
		t.Errorf("it ends with %d", code)
	}
	second.types("ls\r")
	hears(t, node, "ls\r")
	if err := second.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := second.ends(); code != 0 {
		t.Errorf("told to end, it ends with %d", code)
	}
}

// TestConsoleWatched prints what comes, and ends when it is told to.
func TestConsoleWatched(t *testing.T) {
	socket, node := newConsoles(t)
	w := &workspace{t: t, dir: t.TempDir()}
	p := newPerson(t, w.command("console", "p2", "--watch", "--socket", socket))
	p.sees("p2 login: ")
	if _, err := node.WriteString("\r\n\x1b]0;x\a\x1b[31mKernel panic\r\n"); err != nil {
		t.Fatal(err)
	}
	p.sees("\r\nKernel panic\r\n")
	p.types("\x03")
	if code := p.ends(); code != 0 {
		t.Errorf("it ends with %d, %q", code, p.text())
	}
	if strings.Contains(p.text(), "\x1b") {
		t.Errorf("%q", p.text())
	}
}

// TestConsoleOn goes by ssh, whose own escape is switched off: ~. is for the
// program at its other end.
func TestConsoleOn(t *testing.T) {
	w := &workspace{t: t, dir: t.TempDir()}
	bin := t.TempDir()
	script := "#!/bin/sh\nfor a; do printf '<%s>' \"$a\"; done\nprintf '\\n'\nexit 1\n"
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := w.command("console", "p2", "--take", "--on", "hammond")
	for i, v := range cmd.Env {
		if strings.HasPrefix(v, "PATH=") {
			cmd.Env[i] = "PATH=" + bin + ":" + strings.TrimPrefix(v, "PATH=")
		}
	}
	p := newPerson(t, cmd)
	p.sees("<-e><none><-t><hammond><--><sudo><hatchery><'console'><'p2'><'--take'>")
	if code := p.ends(); code != exitFailed {
		t.Errorf("it ends with %d", code)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, test := range []struct{ args, want string }{
		{"console p2 --log --on hammond", "<hammond><--><sudo><-n><hatchery><'console'><'p2'><'--log'>"},
		{"doctor --json --on hammond", "<hammond><--><sudo><-n><hatchery><'doctor'><'--json'>"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), strings.Fields(test.args), &stdout, &stderr); code != exitFailed || !strings.Contains(stdout.String(), test.want) || stderr.Len() > 0 {
			t.Errorf("%s: %d, %s%s", test.args, code, stdout.String(), stderr.String())
		}
	}
}

// TestDoctorElsewhere: a machine that is no controller says so.
func TestDoctorElsewhere(t *testing.T) {
	if _, err := os.Stat("/etc/hatchery/node.json"); err == nil {
		t.Skip("this machine is a node of a cluster")
	}
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), []string{"doctor", "--json"}, &stdout, &stderr)
	var said struct{ Message string }
	if err := json.Unmarshal(stderr.Bytes(), &said); err != nil || code != exitUsage || !strings.Contains(said.Message, "name the controller with --on") || stdout.Len() > 0 {
		t.Errorf("%d, %s%s", code, stdout.String(), stderr.String())
	}
}
