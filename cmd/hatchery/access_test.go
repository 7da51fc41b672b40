//go:build linux

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// TestSSHUnderstands asks ssh itself what ssh_config and known_hosts mean.
func TestSSHUnderstands(t *testing.T) {
	w := newWorkspace(t, imagetest.Bookworm(t), "controller: {hostname: hammond, address: 192.168.42.10/24}\nslots: {p1: {}, p2: {hostname: carter}}\ndomain: example.org\n")
	w.hatchery("build", "-q", "--layers-only")
	config, known := w.path("out/ssh_config"), w.path("out/known_hosts")
	for _, test := range []struct {
		host string
		want []string
	}{
		{"hammond", []string{"hostname 192.168.42.10", "user pi", "hostkeyalias hammond", "stricthostkeychecking true", "userknownhostsfile " + known}},
		{"controller", []string{"hostname 192.168.42.10", "hostkeyalias hammond"}},
		{"carter", []string{"hostname 172.19.181.2", "proxyjump hammond", "hostkeyalias carter"}},
		{"p2", []string{"hostname 172.19.181.2", "proxyjump hammond", "hostkeyalias carter"}},
		{"carter.example.org", []string{"hostname 172.19.181.2"}},
		{"elsewhere", []string{"hostname elsewhere"}},
	} {
		out := testtool.Run(t, "ssh", "-F", config, "-G", test.host)
		for _, want := range test.want {
			if !strings.Contains("\n"+out, "\n"+want+"\n") {
				t.Errorf("ssh -G %s: no %q in\n%s", test.host, want, out)
			}
		}
	}
	for _, host := range []string{"hammond", "192.168.42.10", "carter", "p2", "172.19.181.2", "carter.example.org"} {
		if out := testtool.Run(t, "ssh-keygen", "-F", host, "-f", known); !strings.Contains(out, "ssh-ed25519 ") {
			t.Errorf("ssh-keygen -F %s: %s", host, out)
		}
	}
}

// TestSSHFindsTheFiles builds in a folder whose name ssh_config has to quote,
// for a key of a name that ssh would not try by itself, and asks ssh which
// files it reads.
func TestSSHFindsTheFiles(t *testing.T) {
	ssh := testtool.Need(t, "ssh")
	outer := newWorkspace(t, "unset", "")
	w := &workspace{t: t, dir: outer.path("d 2%x")}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.write("key.pub", testKey)
	w.write("key", "")
	w.cluster(imagetest.Bookworm(t), "")
	w.hatchery("build", "-q", "--layers-only")
	config := w.path("out/ssh_config")
	for _, host := range []string{"controller", "p1", "p4"} {
		known := "userknownhostsfile " + w.path("out/known_hosts")
		if out := testtool.Run(t, "ssh", "-F", config, "-G", host); !strings.Contains(out, known+"\n") {
			t.Errorf("ssh -G %s: no %q in\n%s", host, known, out)
		}
		// What -G prints of identity files is not expanded yet; -v tells the
		// files that are tried.
		out, err := exec.Command(ssh, "-v", "-F", config, "-o", "ProxyCommand=false", "-o", "BatchMode=yes", host).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("ssh reached a host through `false`: %v", err)
		}
		if want := "identity file " + w.path("key") + " type "; !strings.Contains(string(out), want) {
			t.Errorf("ssh -v %s: no %q in\n%s", host, want, out)
		}
		if strings.Contains(string(out), "id_rsa") {
			t.Errorf("ssh -v %s tries other keys:\n%s", host, out)
		}
	}
}

// TestFolderThatCannotBeNamed is refused, as its user's matter.
func TestFolderThatCannotBeNamed(t *testing.T) {
	outer := newWorkspace(t, "unset", "")
	w := &workspace{t: t, dir: outer.path(`d"x`)}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.write("key.pub", testKey)
	w.cluster(imagetest.Bookworm(t), "")
	cmd := w.command("build", "-q", "--layers-only")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitUsage || !strings.Contains(stderr.String(), "ssh_config cannot name the path") {
		t.Errorf("%v: %s", err, stderr.String())
	}
	if found, _ := filepath.Glob(w.path("out/ssh_config")); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}
