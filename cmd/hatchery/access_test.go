//go:build linux

package main

import (
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
