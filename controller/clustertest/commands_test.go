//go:build linux

package clustertest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hatchery/controller/clustertest"
	"hatchery/controller/operation"
	"hatchery/internal/testtool"
)

// A command is `hatchery` as somebody on the controller calls it.
type command struct {
	t       *testing.T
	c       *clustertest.Cluster
	program string
}

// commandLine builds it.
func commandLine(t *testing.T, c *clustertest.Cluster) *command {
	t.Helper()
	program := filepath.Join(t.TempDir(), "hatchery")
	build := exec.CommandContext(t.Context(), testtool.Need(t, "go"), "build", "-o", program, "hatchery/cmd/hatchery")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return &command{t, c, program}
}

// An outcome is what came of a command.
type outcome struct {
	code           int
	stdout, stderr string
}

// run runs a command as somebody, and waits for it.
func (h *command) run(by string, args ...string) outcome {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program, append(args, "--socket", h.c.Socket())...)
	cmd.Env = append(os.Environ(), "USER="+by, "SUDO_USER=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Errorf("hatchery %v: %v", args, err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// begin starts a command, whose outcome comes.
func (h *command) begin(by string, args ...string) <-chan outcome {
	c := make(chan outcome, 1)
	go func() { c <- h.run(by, args...) }()
	return c
}

// operations are those that the service knows, the newest first.
func operations(t *testing.T, c *clustertest.Cluster) []*operation.Operation {
	t.Helper()
	var list []*operation.Operation
	until(t, "the service to answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var err error
		list, err = operation.Client{Caller: c.Service()}.List(ctx)
		return err == nil
	})
	return list
}

// has says whether a text has all of some words.
func has(text string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// ownerOf is who owns a file, by number.
func ownerOf(info os.FileInfo) string {
	s := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", s.Uid, s.Gid)
}
