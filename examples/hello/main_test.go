package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func none(string) string { return "" }

// here is the line of this machine.
func here(t *testing.T) string {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("hello from %s: %s/%s\n", host, runtime.GOOS, runtime.GOARCH)
}

// A log is what was printed, to be read while more is.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// freePort is an address that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for start := time.Now(); !reached(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal(what)
		}
	}
}

// TestGreet: it prints, prints again, answers, is asked, and ends when told.
func TestGreet(t *testing.T) {
	address := freePort(t)
	ctx, stop := context.WithCancel(t.Context())
	var stdout, stderr log
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--every", "100ms", "--listen", address}, none, &stdout, &stderr)
	}()
	line := here(t)
	eventually(t, "it does not print twice", func() bool { return strings.HasPrefix(stdout.String(), line+line) })

	response, err := http.Get("http://" + address + "/any/where")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || string(body) != line || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("it answers %q (%s, %v), want %q", body, response.Header.Get("Content-Type"), err, line)
	}
	var answer, complaint bytes.Buffer
	if code := run(t.Context(), []string{"--ask", "http://" + address}, none, &answer, &complaint); code != exitDone || answer.String() != line {
		t.Errorf("asked by --ask: exit code %d, %q, %s", code, answer.String(), complaint.String())
	}

	stop()
	if code := <-ended; code != exitDone || stderr.String() != "" {
		t.Errorf("told to end: exit code %d, %s", code, stderr.String())
	}
	if rest := strings.ReplaceAll(stdout.String(), line, ""); rest != "" {
		t.Errorf("it also printed %q", rest)
	}
}

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		summary string
		args    string
		env     map[string]string
		want    settings
		problem string
	}{
		{summary: "nothing said", want: settings{every: 5 * time.Second, listen: ":8080"}},
		{summary: "by flags", args: "--every 1m --listen [::1]:80", want: settings{every: time.Minute, listen: "[::1]:80"}},
		{summary: "by environment", env: map[string]string{"HELLO_EVERY": "2s", "HELLO_LISTEN": ":1"}, want: settings{every: 2 * time.Second, listen: ":1"}},
		{summary: "flags win", args: "--every 3s", env: map[string]string{"HELLO_EVERY": "2s"}, want: settings{every: 3 * time.Second, listen: ":8080"}},
		{summary: "asking", args: "--ask http://p1:8080", want: settings{every: 5 * time.Second, listen: ":8080", ask: "http://p1:8080"}},
		{summary: "too often", args: "--every 1ms", problem: "1ms between two lines"},
		{summary: "never", args: "--every -1s", problem: "-1s between two lines"},
		{summary: "no time", env: map[string]string{"HELLO_EVERY": "often"}, problem: `HELLO_EVERY: "often" is no time`},
		{summary: "no time, by flag", args: "--every often", problem: "often"},
		{summary: "unknown flag", args: "--loud", problem: "-loud"},
		{summary: "an argument", args: "world", problem: `"world" is no flag`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got, err := read(strings.Fields(test.args), func(name string) string { return test.env[name] })
			switch {
			case test.problem != "":
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Errorf("got %+v, %v, want a problem with %q", got, err, test.problem)
				}
			case err != nil || *got != test.want:
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer broken.Close()
	for _, test := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"--help", exitDone, "Usage: hello", ""},
		{"-h", exitDone, "Usage: hello", ""},
		{"--loud", exitUsage, "", "see hello --help"},
		{"--listen " + taken.Addr().String(), exitFailed, "", "cannot answer at " + taken.Addr().String()},
		{"--ask http://" + freePort(t), exitFailed, "", "no answer"},
		{"--ask " + broken.URL, exitFailed, "", "answers 418"},
		{"--ask :", exitFailed, "", "cannot ask"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(test.args), none, &stdout, &stderr)
		if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) ||
			test.stdout == "" && stdout.Len() > 0 || test.stderr == "" && stderr.Len() > 0 {
			t.Errorf("hello %s: exit code %d\nstdout: %s\nstderr: %s", test.args, code, stdout.String(), stderr.String())
		}
	}
}
