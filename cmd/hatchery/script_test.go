package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// payloadVariable tells the commands of scripts, which are this test's own
// binary, where the nodes' programs are.
const payloadVariable = "HATCHERY_TEST_PAYLOAD"

// roles has a process of this test's binary be something else than tests, where it was
// started for that; it returns otherwise.
var roles = func(*testing.M) {}

func TestMain(m *testing.M) {
	roles(m)
	testscript.Main(withPayload{m}, map[string]func(){
		"hatchery": func() {
			payloadFolder = os.Getenv(payloadVariable)
			os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// withPayload runs the tests with programs for the nodes, of whatever kind.
type withPayload struct{ m *testing.M }

func (w withPayload) Run() int {
	folder, err := fakePayload()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot make programs for the nodes:", err)
		return 1
	}
	if payloadFolder = folder; folder != "" {
		defer os.RemoveAll(folder)
	}
	return w.m.Run()
}

// TestScripts runs the command line as a user does. The scripts find a small
// Raspberry Pi OS image at $BASE and a public key at $HOME/.ssh/id_ed25519.pub.
func TestScripts(t *testing.T) {
	base := imagetest.Bookworm(t)
	netbase := imagetest.Bookworm(t, imagetest.WithKernel("6.12.25+rpt-rpi-v6"))
	for _, tool := range []string{"debugfs", "mtype"} {
		testtool.Need(t, tool)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("SOURCE_DATE_EPOCH", "1763769600")
			env.Setenv("BASE", base)
			env.Setenv("NETBASE", netbase) // one that boots without a card
			env.Setenv(payloadVariable, payloadFolder)
			env.Setenv("PATH", env.Getenv("PATH")+":/usr/sbin:/sbin")
			if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(home, ".ssh", "id_ed25519.pub"), []byte(testKey), 0o644); err != nil {
				return err
			}
			yaml := "name: homelab\nbase: {image: " + base + "}\nuser: {authorized_keys: [~/.ssh/id_ed25519.pub]}\ndocker: {packages: []}\n"
			return os.WriteFile(filepath.Join(env.WorkDir, "cluster.yaml"), []byte(yaml), 0o644)
		},
	})
}

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx5a0Vd1zXVx6y0dJmQ8Qm3i1r7pM0ZbS2jJx0k7r3E test@example\n"
