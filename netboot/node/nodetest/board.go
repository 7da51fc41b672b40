package nodetest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/internal/testtool"
)

// pipeVariable names the NBD server's socket to a copy of the test's program,
// which QEMU starts for each connection of the node's (Pipe).
const pipeVariable = "HATCHERY_NODETEST_SOCKET"

// Pipe is to be called first by a TestMain. In a process that QEMU has started
// for a connection it carries that to the server and does not return.
func Pipe() {
	path := os.Getenv(pipeVariable)
	if path == "" {
		return
	}
	network := "unix"
	if !filepath.IsAbs(path) {
		network = "tcp"
	}
	conn, err := net.Dial(network, path)
	if err != nil {
		os.Exit(1)
	}
	done := make(chan struct{}, 2)
	carry := func(to io.Writer, from io.Reader) {
		io.Copy(to, from)
		done <- struct{}{}
	}
	go carry(conn, os.Stdin)
	go carry(os.Stdout, conn)
	<-done // as soon as one side ends, QEMU is to see it
	os.Exit(0)
}

// Options say what board is booted.
type Options struct {
	Kernel    *Kernel
	Initramfs []byte
	Append    string // to the command line
	Socket    string // the server's: a path, or an address
	Memory    int    // MiB, 256 if 0
	MAC       string // of the network card
	Log       string // where the console goes
	// Server is the address that leads to the socket: 172.19.180.254:10809.
	Server string
	// Card is an image that the board has as its card, "" for none. What is written to
	// it is slowed down to so many bytes a second, 0 for not.
	Card  string
	Speed int
	// Plain has the node's link lead to Server's network without a VLAN, whose first 24
	// bits are Server's.
	Plain bool
}

// A Board is one that runs.
type Board struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	Switch *vlanSwitch
	began  time.Time
	ended  chan struct{}

	mu      sync.Mutex
	console strings.Builder
	read    int // up to where Await has looked
}

// Boot starts one. It is stopped at the test's end.
func Boot(t testing.TB, o Options) *Board {
	t.Helper()
	qemu := testtool.Need(t, "qemu-system-arm")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if o.Memory == 0 {
		o.Memory = 256
	}
	if o.MAC == "" {
		o.MAC = "52:54:00:12:34:01"
	}
	if o.Server == "" {
		o.Server = "172.19.180.254:10809"
	}
	initrd := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(initrd, o.Initramfs, 0o600); err != nil {
		t.Fatal(err)
	}
	b := &Board{t: t, ended: make(chan struct{}), began: time.Now()}
	network := o.Server[:strings.LastIndexByte(o.Server[:strings.LastIndexByte(o.Server, ':')], '.')]
	controller := "user,id=controller,restrict=on,net=" + network + ".0/24,host=" + network + ".253,dns=" + network + ".252,dhcpstart=" + network + ".200,guestfwd=tcp:" + o.Server + "-cmd:" + self
	arguments := []string{"-M", "virt", "-cpu", "cortex-a7", "-smp", "1", "-m", fmt.Sprint(o.Memory), "-nodefaults", "-no-reboot", "-display", "none",
		"-kernel", o.Kernel.Image, "-initrd", initrd, "-append", "console=ttyAMA0 " + o.Append, "-serial", "stdio", "-netdev", controller}
	if o.Plain {
		arguments = append(arguments, "-device", "virtio-net-device,netdev=controller,mac="+o.MAC)
	} else {
		b.Switch = newSwitch(t)
		arguments = append(arguments, "-netdev", b.Switch.arguments("plain", "plain"),
			"-netdev", "hubport,id=port1,hubid=0,netdev=controller", "-netdev", "hubport,id=port2,hubid=0,netdev=plain",
			"-netdev", b.Switch.arguments("node", "node"), "-device", "virtio-net-device,netdev=node,mac="+o.MAC)
	}
	if o.Card != "" {
		drive := "if=none,id=card,format=raw,file=" + o.Card
		if o.Speed > 0 {
			drive += fmt.Sprintf(",throttling.bps-write=%d", o.Speed)
		}
		arguments = append(arguments, "-drive", drive, "-device", "virtio-blk-device,drive=card")
	}
	b.cmd = exec.Command(qemu, arguments...)
	b.cmd.Env = append(os.Environ(), pipeVariable+"="+o.Socket)
	log, err := os.Create(o.Log)
	if err != nil {
		t.Fatal(err)
	}
	b.cmd.Stderr = log
	if b.stdin, err = b.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		defer log.Close()
		buffer := make([]byte, 4096)
		for {
			n, err := out.Read(buffer)
			log.Write(buffer[:n])
			b.mu.Lock()
			b.console.Write(buffer[:n])
			b.mu.Unlock()
			if err != nil {
				b.cmd.Wait()
				return
			}
		}
	}()
	t.Cleanup(func() {
		b.cmd.Process.Kill()
		<-b.ended
		if t.Failed() {
			text := b.Console()
			t.Logf("the console's end:\n%s", text[max(0, len(text)-6000):])
		}
	})
	return b
}

// Console is what came so far.
func (b *Board) Console() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.ReplaceAll(b.console.String(), "\r", "")
}

// Await waits until the console says some words, after what was waited for
// before, and gives the text up to the end of their line. The deadline is only
// there to end a test that hangs.
func (b *Board) Await(words string, deadline time.Duration) string {
	b.t.Helper()
	for began := time.Now(); ; {
		ended := false
		select {
		case <-b.ended:
			ended = true
		default:
		}
		text := b.Console()
		if at := strings.Index(text[b.read:], words); at >= 0 {
			if n := strings.IndexByte(text[b.read+at:], '\n'); n >= 0 {
				from := b.read
				b.read += at + n + 1
				return text[from:b.read]
			}
		}
		switch {
		case ended:
			b.t.Fatalf("the board has stopped, and did not say %q", words)
		case time.Since(began) > deadline:
			b.t.Fatalf("the console does not say %q in %v", words, deadline)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Type types a line.
func (b *Board) Type(line string) {
	b.t.Helper()
	if _, err := io.WriteString(b.stdin, line+"\n"); err != nil {
		b.t.Fatal(err)
	}
}

// Do has the guest do something and gives what it said.
func (b *Board) Do(line string, deadline time.Duration) string {
	b.t.Helper()
	b.Type(line)
	name, _, _ := strings.Cut(line, " ")
	text := b.awaitEither("GUEST done "+name, "GUEST failed "+name, deadline)
	if strings.Contains(text, "GUEST failed "+name) {
		b.t.Fatalf("%s: %s", line, text)
	}
	return text
}

func (b *Board) awaitEither(one, other string, deadline time.Duration) string {
	b.t.Helper()
	from := b.read
	for began := time.Now(); ; {
		text := b.Console()[from:]
		for _, words := range []string{one, other} {
			if strings.Contains(text, words) {
				return b.Await(words, deadline)
			}
		}
		if time.Since(began) > deadline {
			return b.Await(one, 0)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Ended waits until the board is switched off.
func (b *Board) Ended(deadline time.Duration) {
	b.t.Helper()
	select {
	case <-b.ended:
	case <-time.After(deadline):
		b.t.Fatalf("the board has not switched itself off in %v", deadline)
	}
}

// Kill takes the board's power away.
func (b *Board) Kill() {
	b.cmd.Process.Kill()
	<-b.ended
}

// Pull pulls the link's plug, and puts it in again.
func (b *Board) Pull(out bool) { b.Switch.pulled.Store(out) }
