package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/page"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// forwardVariable has this program be an ssh that forwards a port to the address
// in it, or ends as it says.
const forwardVariable = "HATCHERY_TEST_FORWARD"

func init() {
	if to := os.Getenv(forwardVariable); to != "" && strings.HasPrefix(filepath.Base(os.Args[0]), "ssh") {
		os.Exit(beSSH(to, os.Args[1:]))
	}
}

// beSSH does what `ssh -N -L` does.
func beSSH(to string, args []string) int {
	fmt.Fprintln(os.Stderr, "ssh was called with", args)
	if to == "refused" {
		return 255
	}
	var local string
	for i, arg := range args {
		if arg == "-L" {
			local = strings.Join(strings.Split(args[i+1], ":")[:2], ":")
		}
	}
	l, err := net.Listen("tcp4", local)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp4", to)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt)
	<-ended
	return 255 // as ssh's is
}

func aPage(t *testing.T, listen string) *page.Service {
	t.Helper()
	s, err := page.New(page.Options{
		Node: &nodefile.Node{
			Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "hammond",
			Address: netip.MustParsePrefix("172.19.181.254/24"), ControllerAddr: netip.MustParseAddr("172.19.181.254"), Serve: &nodefile.Serve{Listen: listen},
		},
		View:     func(context.Context) (*enrol.ClusterView, error) { return &enrol.ClusterView{Cluster: "homelab"}, nil },
		Events:   func(ctx context.Context, _ bool, _ func(controller.Event) error) error { <-ctx.Done(); return nil },
		StateDir: t.TempDir(), IdentityDir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPageHere(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "hatchery.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: aPage(t, nodefile.ListenLAN).Calls()}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	token := ""
	for _, test := range []struct {
		args   string
		code   int
		stdout string // a pattern
		stderr string
	}{
		{"page", 0, `^http://127\.0\.0\.1:7480/ +on the controller itself.*\nhttp://172\.19\.181\.254:7480/ +on the slots' network, to look at\nNot on the LAN: .*serve: \{listen: lan\}.*\n$`, ""},
		{"page --json", 0, `"loopback": "http://127.0.0.1:7480/"`, ""},
		{"page --token", 0, `^[A-Za-z0-9_-]{32}\n$`, ""},
		{"page --token --json", 0, `"token": "[A-Za-z0-9_-]{32}"`, ""},
		{"page --new-token", 0, `^[A-Za-z0-9_-]{32}\n$`, ""},
		{"page --open", exitUsage, `^$`, "name the controller with --on"},
		{"page --port 80", exitUsage, `^$`, "name the controller with --on"},
		{"page --token --new-token", exitUsage, `^$`, "each alone"},
		{"page p2", exitUsage, `^$`, "takes no arguments"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), append(strings.Fields(test.args), "--socket", socket), &stdout, &stderr)
		if code != test.code || !regexp.MustCompile(test.stdout).Match(stdout.Bytes()) || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%s: exit code %d\n%s%s", test.args, code, stdout.String(), stderr.String())
		}
		switch test.args {
		case "page --token":
			token = stdout.String()
		case "page --new-token":
			if stdout.String() == token {
				t.Error("the new token is the old one")
			}
		}
	}
}

// syncBuffer is written to by a command while a test reads it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestPageThroughSSH brings a page here, and lets go of it.
func TestPageThroughSSH(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	name := "ssh" + filepath.Ext(self)
	if filepath.Ext(self) == ".test" {
		name = "ssh"
	}
	if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
		t.Skip(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "ssh_config"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "the page") }))
	defer there.Close()
	nothing := httptest.NewServer(http.NotFoundHandler())
	defer nothing.Close()

	t.Run("until it is enough", func(t *testing.T) {
		t.Setenv(forwardVariable, there.Listener.Addr().String())
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		stdout, in := io.Pipe()
		stderr := &syncBuffer{}
		ended := make(chan int, 1)
		go func() { ended <- run(ctx, []string{"page", "--on", "hammond", "-o", out}, in, stderr); in.Close() }()
		url, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		answer, err := http.Get(strings.TrimSpace(url))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if string(text) != "the page" || !strings.HasPrefix(url, "http://127.0.0.1:") {
			t.Errorf("%s: %q", url, text)
		}
		cancel()
		select {
		case code := <-ended:
			if code != exitDone {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		case <-time.After(time.Minute):
			t.Fatal("it does not end")
		}
		at := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(url), "http://"), "/")
		if want := "[-F " + filepath.Join(out, "ssh_config") + " -N -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 -L " + at + ":127.0.0.1:7480 hammond]"; !strings.Contains(stderr.String(), want) || !strings.Contains(stderr.String(), "hatchery page --token --on hammond") {
			t.Errorf("%s\nwithout %s", stderr, want)
		}
		if conn, err := net.Dial("tcp4", at); err == nil {
			conn.Close()
			t.Error("ssh runs on")
		}
	})

	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	for _, test := range []struct {
		summary, to string
		args        []string
		code        int
		stderr      string
	}{
		{"ssh is refused", "refused", nil, exitFailed, "cannot reach hammond by ssh"},
		{"something else answers", nothing.Listener.Addr().String(), nil, exitFailed, "the page does not answer there: it answers 404"},
		{"nobody answers", "127.0.0.1:1", nil, exitFailed, "the page does not answer there"},
		{"the port is taken", there.Listener.Addr().String(), []string{"--port", port}, exitFailed, "name another with --port"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Setenv(forwardVariable, test.to)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			var stdout, stderr bytes.Buffer
			code := run(ctx, append([]string{"page", "--on", "hammond", "-o", out}, test.args...), &stdout, &stderr)
			if code != test.code || stdout.Len() > 0 || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
			}
		})
	}
}
