package console_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/controller"
	"hatchery/controller/console"
	"hatchery/internal/enrol"
	"hatchery/internal/testtool"
)

// A bench is a service over pseudo-terminals: the masters are the nodes.
type bench struct {
	t      *testing.T
	dir    string // with the devices' names
	run    string
	socket string
	client console.Client
	stop   func()
}

// newBench runs a service for p1 and p2, as `hatchery serve` has it.
func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), run: t.TempDir()}
	b.start()
	return b
}

func (b *bench) start() {
	b.t.Helper()
	s, err := console.New(console.Options{
		Slots: []int{1, 2}, Dir: filepath.Join(b.run, "console"), Device: b.device, Every: 5 * time.Millisecond,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	sockets, err := os.MkdirTemp("", "console")
	if err != nil {
		b.t.Fatal(err)
	}
	b.socket = filepath.Join(sockets, "s")
	l, err := net.Listen("unix", b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	server := &http.Server{Handler: s.Calls(), BaseContext: func(net.Listener) context.Context { return ctx }}
	go server.Serve(l)
	b.client = console.Client{Caller: controller.Dial(b.socket), Socket: b.socket}
	b.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		server.Close()
		os.RemoveAll(sockets)
	})
	b.t.Cleanup(b.stop)
}

func (b *bench) device(slot int) string { return filepath.Join(b.dir, fmt.Sprintf("ttypi%d", slot)) }

// plug makes a slot's console appear, and gives the node's end of it.
func (b *bench) plug(slot int) (node *os.File, unplug func()) {
	b.t.Helper()
	master, tty := testtool.Terminal(b.t, 24, 80)
	name := tty.Name()
	tty.Close()
	if err := os.Symlink(name, b.device(slot)); err != nil {
		b.t.Fatal(err)
	}
	return master, func() {
		os.Remove(b.device(slot))
		master.Close()
	}
}

func (b *bench) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b.t.Cleanup(cancel)
	return ctx
}

// until waits until f says that it is so.
func (b *bench) until(what string, f func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("it never came to this: %s", what)
		}
	}
}

func (b *bench) view(slot int) console.View {
	b.t.Helper()
	views, err := b.client.Views(b.context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, v := range views {
		if v.Slot == slot {
			return v
		}
	}
	b.t.Fatalf("there is no slot %d in %+v", slot, views)
	return console.View{}
}

func (b *bench) open(slot int) {
	b.t.Helper()
	b.until("the console is there", func() bool { return b.view(slot).Open })
}

// kept is what is kept of a console, as plain text without the service's notes.
func (b *bench) kept(slot int) string {
	b.t.Helper()
	s, err := b.client.Watch(b.context(), slot, false)
	if err != nil {
		b.t.Fatal(err)
	}
	defer s.Close()
	return plain(s.Kept)
}

func plain(data []byte) string {
	var text, lines strings.Builder
	p := console.NewPlain(&text)
	p.Write(data)
	p.Close()
	for line := range strings.Lines(text.String()) {
		if !strings.HasPrefix(line, "[hatchery: ") && strings.TrimSpace(line) != "" {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

// readUntil reads until all that was read has something in it.
func readUntil(t *testing.T, r interface{ Read([]byte) (int, error) }, want string) string {
	t.Helper()
	var all []byte
	buffer := make([]byte, 1024)
	hung := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("%q did not come, after %q", want, all)) })
	defer hung.Stop()
	for !strings.Contains(string(all), want) {
		n, err := r.Read(buffer)
		all = append(all, buffer[:n]...)
		if err != nil && !strings.Contains(string(all), want) {
			t.Fatalf("%q did not come, after %q: %v", want, all, err)
		}
	}
	return string(all)
}

func say(t *testing.T, node *os.File, text string) {
	t.Helper()
	if _, err := node.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// A node's words are there when somebody asks, whether it still speaks, is gone,
// or was there before the service was.
func TestWhatWasSaidBeforeIsThere(t *testing.T) {
	b := newBench(t)
	if v := b.view(2); v.Open || v.Kept != 0 || v.Since != nil || v.Device != b.device(2) {
		t.Errorf("before anything: %+v", v)
	}
	node, unplug := b.plug(2)
	b.open(2)
	say(t, node, "[    0.0] Linux\r\n")
	b.until("it is kept", func() bool { return strings.Contains(b.kept(2), "Linux") })
	unplug()
	b.until("it is gone", func() bool { return !b.view(2).Open })

	node, _ = b.plug(2)
	b.open(2)
	say(t, node, "[    0.0] Linux again\r\npanic: no root")
	b.until("it is kept", func() bool { return strings.Contains(b.kept(2), "panic") })
	if got, want := b.kept(2), "[    0.0] Linux\n[    0.0] Linux again\npanic: no root"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if v := b.view(2); v.Last != "panic: no root" || v.Since == nil {
		t.Errorf("%+v", v)
	}
	if b.view(1).Kept != 0 {
		t.Error("p1 has what p2 said")
	}
	info, err := os.Stat(filepath.Join(b.run, "console", "p2.log"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}

	b.stop()
	b.start()
	b.open(2)
	say(t, node, "\r\nstill here\r\n")
	b.until("the next service has both", func() bool {
		k := b.kept(2)
		return strings.Contains(k, "Linux again") && strings.Contains(k, "still here")
	})
}

// Kept is all that is kept, and it begins with a line.
func TestOnlyTheEndIsKept(t *testing.T) {
	b := newBench(t)
	node, _ := b.plug(1)
	b.open(1)
	go func() {
		for i := range 60_000 {
			fmt.Fprintf(node, "line %08d\r\n", i)
		}
		node.WriteString("the end\r\n")
	}()
	b.until("all is said", func() bool { return b.view(1).Last == "the end" })
	s, err := b.client.Watch(b.context(), 1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first, rest, _ := bytes.Cut(s.Kept, []byte("\r\n"))
	if len(s.Kept) > console.Kept || len(s.Kept) < console.Kept-1024 {
		t.Errorf("%d bytes are kept", len(s.Kept))
	}
	var begin int
	if n, err := fmt.Sscanf(string(first), "line %08d", &begin); n != 1 || err != nil || len(first) != 13 {
		t.Fatalf("it begins with %q", first)
	}
	var want bytes.Buffer
	for i := begin + 1; i < 60_000; i++ {
		fmt.Fprintf(&want, "line %08d\r\n", i)
	}
	want.WriteString("the end\r\n")
	if !bytes.Equal(rest, want.Bytes()) {
		t.Error("lines are missing, or there twice")
	}
	if info, err := os.Stat(filepath.Join(b.run, "console", "p1.log")); err != nil || info.Size() > 2*console.Kept {
		t.Errorf("the file: %v, %v", info, err)
	}
}

// One person types; others look on, and see what the node answers.
func TestAttached(t *testing.T) {
	b := newBench(t)
	node, _ := b.plug(2)
	b.open(2)
	say(t, node, "p2 login: ")
	b.until("it is kept", func() bool { return strings.Contains(b.kept(2), "login") })

	watcher, err := b.client.Watch(b.context(), 2, true)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	if _, err := watcher.Write([]byte("x")); err == nil {
		t.Error("one who looks on could type")
	}
	person, err := b.client.Attach(b.context(), 2, false)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(person.Kept), "p2 login: ") {
		t.Errorf("%q", person.Kept)
	}
	if v := b.view(2); !v.Attached || v.Watching != 1 {
		t.Errorf("%+v", v)
	}
	// The line changes nothing: returns, control characters and bytes of all kinds.
	keys := "pi\r\n\x03\x04\x11\x13\x1a\x7f\x80\xff"
	if _, err := person.Write([]byte(keys)); err != nil {
		t.Fatal(err)
	}
	if got := readUntil(t, node, "\xff"); got != keys {
		t.Errorf("the node got %q", got)
	}
	answer := "Password: \x1b[0m\r\n\xfe"
	say(t, node, answer)
	for _, who := range []*console.Stream{person, watcher} {
		if got := readUntil(t, who, "\xfe"); got != answer {
			t.Errorf("somebody saw %q", got)
		}
	}

	var refused *enrol.Error
	if _, err := b.client.Attach(b.context(), 2, false); !errors.As(err, &refused) || refused.Code != console.Taken {
		t.Errorf("a second one: %v", err)
	}
	other, err := b.client.Attach(b.context(), 2, true)
	if err != nil {
		t.Fatal(err)
	}
	readUntil(t, person, "somebody else has taken")
	if _, err := other.Write([]byte("mine\r")); err != nil {
		t.Fatal(err)
	}
	readUntil(t, node, "mine\r")
	other.Close()
	b.until("nobody is attached", func() bool { return !b.view(2).Attached })
	again, err := b.client.Attach(b.context(), 2, false)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	watcher.Close()
	b.until("nobody looks on", func() bool { v := b.view(2); return !v.Attached && v.Watching == 0 })
}

// Who is attached stays so while the node is off and on again.
func TestAttachedOverAReboot(t *testing.T) {
	b := newBench(t)
	person, err := b.client.Attach(b.context(), 1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer person.Close()
	if _, err := person.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	readUntil(t, person, "the console is not there")
	for range 2 {
		node, unplug := b.plug(1)
		readUntil(t, person, "the console of p1 is there")
		say(t, node, "login: ")
		readUntil(t, person, "login: ")
		if _, err := person.Write([]byte("root\r")); err != nil {
			t.Fatal(err)
		}
		readUntil(t, node, "root\r")
		unplug()
		readUntil(t, person, "the console of p1 is gone")
	}
}

// Nobody who is attached or looks on keeps the service from ending.
func TestTheServiceEnds(t *testing.T) {
	b := newBench(t)
	b.plug(1)
	b.open(1)
	person, err := b.client.Attach(b.context(), 1, false)
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := b.client.Watch(b.context(), 1, true)
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	for _, who := range []*console.Stream{person, watcher} {
		for buffer := make([]byte, 100); ; {
			if _, err := who.Read(buffer); err != nil {
				break
			}
		}
	}
}

// One who takes nothing is let go, and holds up neither the others nor the node.
func TestSlowWatcher(t *testing.T) {
	b := newBench(t)
	node, _ := b.plug(1)
	b.open(1)
	slow, err := b.client.Watch(b.context(), 1, true)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	go func() {
		for range 40_000 {
			fmt.Fprintf(node, "%0100d\r\n", 0)
		}
		node.WriteString("the end\r\n")
	}()
	b.until("all is said, and nobody looks on", func() bool {
		v := b.view(1)
		return v.Last == "the end" && v.Watching == 0
	})
}

// What is no serial port is not read, and it says why.
func TestNoSerialPort(t *testing.T) {
	b := newBench(t)
	if err := os.WriteFile(b.device(1), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.until("it says why", func() bool { return strings.Contains(b.view(1).Trouble, "is no serial port") })
	os.Remove(b.device(1))
	b.plug(1)
	b.open(1)
	if v := b.view(1); v.Trouble != "" {
		t.Errorf("%+v", v)
	}
}

// What cannot be kept can still be looked at.
func TestNothingCanBeKept(t *testing.T) {
	b := newBench(t)
	if err := os.Mkdir(filepath.Join(b.run, "console", "p1.log"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.plug(1)
	b.open(1)
	if _, err := b.client.Watch(b.context(), 1, true); err == nil || !strings.Contains(err.Error(), "cannot read what the console of p1 said") {
		t.Errorf("%v", err)
	}
}

// The tty does what a cable does: no echo, no translation, no hang-up.
func TestTheLineIsRaw(t *testing.T) {
	b := newBench(t)
	node, tty := testtool.Terminal(t, 24, 80)
	defer tty.Close()
	// As a serial port of the kernel's is by itself.
	settings, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	settings.Cflag |= unix.HUPCL
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, settings); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tty.Name(), b.device(1)); err != nil {
		t.Fatal(err)
	}
	b.open(1)
	if settings, err = unix.IoctlGetTermios(int(node.Fd()), unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	if settings.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 || settings.Iflag&(unix.ICRNL|unix.IXON) != 0 || settings.Oflag&unix.OPOST != 0 || settings.Cflag&unix.HUPCL != 0 {
		t.Errorf("%+v", settings)
	}
}

func TestCalls(t *testing.T) {
	s, err := console.New(console.Options{Slots: []int{2}, Dir: t.TempDir(), Device: func(int) string { return "/nonexistent" }})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/console/", 200},
		{"GET", "/console/p2", 200},
		{"GET", "/console/p3", 404},
		{"GET", "/console/../p2", 301},
		{"GET", "/console/p2/attach", 426},
		{"POST", "/console/p2", 405},
		{"GET", "/console/p2/x", 404},
	} {
		w := httptest.NewRecorder()
		s.Calls().ServeHTTP(w, httptest.NewRequest(test.method, test.path, nil))
		// ServeMux of Go 1.26 answers with a temporary redirect.
		if w.Code != test.status && !(test.status == 301 && w.Code/100 == 3) {
			t.Errorf("%s %s: %d", test.method, test.path, w.Code)
		}
	}
	if lines := s.Last(7, 3); lines != nil {
		t.Errorf("%q", lines)
	}
	if _, err := console.New(console.Options{Dir: "/dev/null/x"}); err == nil {
		t.Error("a folder that cannot be made is no error")
	}
}
