package cardtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/serving"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// roleVariable tells the test's program that it is to be the controller's service,
// and where.
const roleVariable = "HATCHERY_CARDTEST"

// A role is where the service finds what.
type role struct{ Etc, State, Run, DockerRoot, EngineHost, Socket, USB string }

func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		os.Exit(serve(text))
	}
	os.Exit(m.Run())
}

// serve is `hatchery serve`.
func serve(text string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var r role
	boards := newBus()
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = boards.listen(r.USB)
	}
	if err == nil {
		err = serving.Run(ctx, serving.Options{
			ConfigDir: r.Etc, StateDir: r.State, RunDir: r.Run, DockerHost: r.EngineHost, DockerRoot: r.DockerRoot, Socket: r.Socket,
			USB: boards, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// found lays what the controller's image has for it into its folders, starts the
// service, and brings it what p1's card holds.
func (s *scenario) found(t *testing.T) {
	m := s.controller
	programs := []string{nodefile.NodeInit("armv6"), nodefile.CardWriter("armv6")}
	for name, content := range s.read(t, "controller", append([]string{nodefile.Path, "/etc/hatchery/identity/key.pem", "/etc/hatchery/identity/certificate.pem", "/etc/hatchery/identity/ca.pem"}, programs...)...) {
		place := filepath.Join(m.Etc(), strings.TrimPrefix(name, "/etc/hatchery/"))
		if slices.Contains(programs, name) {
			place = filepath.Join(m.Dir, "usr", strings.TrimPrefix(name, "/usr/lib/"))
		}
		if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.socket = filepath.Join(m.Run(), "hatchery.sock")
	// What hatchery says over ssh goes to another hatchery, here. The other words are
	// ssh's and sudo's.
	script := fmt.Sprintf("#!/bin/sh\nfor word; do :; done\nwhile [ \"$1\" != hatchery ]; do shift; done\nshift\neval \"exec %s $* --store %s\"\n", s.hatchery, filepath.Join(m.State(), nodefile.NetbootDir))
	if err := os.Mkdir(s.path("bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("bin", "ssh"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s.serve(t)
	s.until(t, "the service answers", time.Minute, func() (bool, string) {
		_, err := s.view()
		return err == nil, fmt.Sprint(err)
	})
	// What the card was flashed with: else there is nothing to go back to.
	s.push(t)
}

// serve starts the service.
func (s *scenario) serve(t *testing.T) {
	t.Helper()
	m := s.controller
	s.usb = filepath.Join(m.Run(), fmt.Sprintf("usb%d.sock", s.services))
	s.services++
	text, err := json.Marshal(role{USB: s.usb, Etc: m.Etc(), State: m.State(), Run: m.Run(), DockerRoot: m.DockerRoot(), EngineHost: m.EngineHost(), Socket: s.socket})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"usr", "work"} {
		if err := os.MkdirAll(filepath.Join(m.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What nodes start is where the controller's image has it.
	cmd := m.Command(context.Background(), "unshare", "--mount", "sh", "-euc",
		`mount -t overlay -o "lowerdir=/usr/lib,upperdir=$0/usr,workdir=$0/work" overlay /usr/lib; exec "$1"`, m.Dir, self)
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	if s.service, err = m.Go("serve", cmd); err != nil {
		t.Fatal(err)
	}
}

// view is what the service knows of p1.
func (s *scenario) view() (*enrol.SlotView, error) {
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	view, err := controller.Dial(s.socket).Cluster(ctx)
	if err != nil {
		return nil, err
	}
	for i := range view.Slots {
		if view.Slots[i].Slot == slot {
			return &view.Slots[i], nil
		}
	}
	return nil, fmt.Errorf("the service knows no slot %d", slot)
}

// push brings what p1 is to have to the controller.
func (s *scenario) push(t *testing.T) {
	t.Log(strings.TrimSpace(s.run(t, "push", "p1", "-q", "--on", "controller", "--cache", s.cache)))
}
