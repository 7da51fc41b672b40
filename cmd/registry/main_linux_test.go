package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/enrol/enroltest"
)

func TestRun(t *testing.T) {
	for _, c := range []struct {
		summary, args  string
		code           int
		stdout, stderr string
	}{
		{"who it is to Docker Hub", "get", exitDone, `{"ServerURL":"","Username":"","Secret":""}`, ""},
		{"help", "help", exitDone, "usage: registry", ""},
		{"no such command", "push", exitUsage, "", `there is no command "push"`},
		{"no such flag", "run -nope", exitUsage, "", "-nope"},
		{"a word too many", "run it", exitUsage, "", `"it" is one word too many`},
		{"no identity", "run -config " + t.TempDir(), exitFailed, "", "cannot read this node's identity"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(c.args), &stdout, &stderr)
		if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: %d, %q, %q", c.summary, code, stdout.String(), stderr.String())
		}
	}
}

// TestServe: it serves with the controller's certificate, without a way to Docker Hub, to
// whom it is for; and ends when it is told to.
func TestServe(t *testing.T) {
	cluster, dir := enroltest.NewCluster(t, "homelab"), t.TempDir()
	id := cluster.Files(t, 0)
	if err := os.Mkdir(filepath.Join(dir, "identity"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"key.pem": id.Key, "certificate.pem": id.Certificate, "ca.pem": id.CA} {
		if err := os.WriteFile(filepath.Join(dir, "identity", name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan int, 1)
	const address = "127.83.119.5"
	var stderr bytes.Buffer // read when it has ended
	go func() {
		ended <- run(ctx, []string{"-config", dir, "-state", dir, "-address", address, "-upstream", "http://192.0.2.1"}, io.Discard, &stderr)
	}()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(id.CA)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "172.19.181.254"}, DisableKeepAlives: true}}
	for _, port := range []string{"5000", "5001"} {
		for {
			answer, err := client.Get("https://" + address + ":" + port + "/v2/")
			if err == nil {
				said, _ := io.ReadAll(answer.Body)
				answer.Body.Close()
				// This is not the slots' network.
				if answer.StatusCode != http.StatusForbidden || !strings.Contains(string(said), "172.19.181.0/24") {
					t.Errorf("port %s: %s: %s", port, answer.Status, said)
				}
				break
			}
			select {
			case code := <-ended:
				t.Fatalf("it has ended: %d, %s", code, stderr.String())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	cancel()
	if code := <-ended; code != exitDone {
		t.Errorf("ended with %d: %s", code, stderr.String())
	}
}
