package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	since := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	state, err := (&firstboot.State{
		Format: 1, Cluster: "homelab", Name: "p2", Step: "join", State: enrol.StateFailed, Detail: "revoked: slot 2 was revoked",
		Steps: []firstboot.StepState{
			{Name: "link", State: enrol.StateDone, Detail: "usb0", Since: since},
			{Name: "join", State: enrol.StateFailed, Detail: "revoked: slot 2 was revoked", Since: since, Tries: 12},
		},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	node := nodefile.Node{Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "controller", Network: "cnat",
		Address: netip.MustParsePrefix("172.19.181.254/24"), ControllerAddr: netip.MustParseAddr("172.19.181.254")}
	file, err := node.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{firstboot.StateFile: state, "node.json": file} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	empty := t.TempDir()
	for _, test := range []struct {
		summary string
		args    []string
		code    int
		stdout  []string
		stderr  []string
	}{
		{summary: "where it stands", args: []string{"status", "-state", dir}, stdout: []string{
			"p2 of homelab: join: failed: revoked: slot 2 was revoked", "link", "usb0", "failed (12 tries)",
		}},
		{summary: "no agent ran yet", args: []string{"status", "-state", empty}, code: exitFailed, stderr: []string{"the agent has not run yet", "systemctl status hatchery-firstboot"}},
		{summary: "version", args: []string{"version"}, stdout: []string{"firstboot "}},
		{summary: "help", args: []string{"-h"}, stdout: []string{"usage: firstboot"}},
		{summary: "a command that there is not", args: []string{"join"}, code: exitUsage, stderr: []string{`there is no command "join"`, "usage: firstboot"}},
		{summary: "a flag that there is not", args: []string{"status", "--yaml"}, code: exitUsage, stderr: []string{"-yaml", "usage: firstboot"}},
		{summary: "a word too many", args: []string{"status", "link"}, code: exitUsage, stderr: []string{`"link" is one word too many`}},
		{summary: "a gadget on the controller", args: []string{"gadget", "-config", dir}, code: exitFailed, stderr: []string{"the controller is no USB gadget"}},
		{summary: "a gadget on nothing of hatchery's", args: []string{"gadget", "-config", empty}, code: exitFailed, stderr: []string{"cannot read who this node is"}},
		{summary: "an agent on nothing of hatchery's", args: []string{"run", "-config", empty, "-state", empty}, code: exitFailed, stderr: []string{"cannot read who this node is"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), test.args, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, want := range test.stdout {
				if !strings.Contains(stdout.String(), want) {
					t.Errorf("stdout lacks %q:\n%s", want, &stdout)
				}
			}
			for _, want := range test.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr lacks %q:\n%s", want, &stderr)
				}
			}
			if test.code == exitDone && stderr.Len() > 0 {
				t.Errorf("stderr: %s", &stderr)
			}
		})
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"status", "--json", "-state", dir}, &stdout, &stderr); code != exitDone || !bytes.Equal(stdout.Bytes(), state) || !json.Valid(stdout.Bytes()) {
		t.Errorf("%d: %s%s", code, &stdout, &stderr)
	}
}
