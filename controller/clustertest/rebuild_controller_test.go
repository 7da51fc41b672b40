//go:build linux

package clustertest_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/controller/clustertest"
	"hatchery/internal/enginetest"
	"hatchery/internal/testtool"
)

// idler is an image's file system: one program, which does nothing until it is told to
// end. The engines here have no registry.
func idler(t *testing.T) string {
	t.Helper()
	testtool.Need(t, "go")
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "idle")
	must(t, os.WriteFile(source, []byte("package main\n\nimport \"time\"\n\nfunc main() {\n\tfor {\n\t\ttime.Sleep(time.Hour)\n\t}\n}\n"), 0o600))
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(program)
	must(t, err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "idle", Mode: 0o755, Size: int64(len(content))}))
	_, err = w.Write(content)
	must(t, err)
	must(t, w.Close())
	file := filepath.Join(dir, "idle.tar")
	must(t, os.WriteFile(file, b.Bytes(), 0o600))
	return file
}

// idling is the process of a container, by the kernel's word: the engine's alone does
// not do.
func idling(t *testing.T, id string) string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	for _, p := range processes {
		comm, err := os.ReadFile(p + "/comm")
		if err != nil || string(comm) != "idle\n" {
			continue
		}
		if groups, err := os.ReadFile(p + "/cgroup"); err == nil && strings.Contains(string(groups), id) {
			return filepath.Base(p)
		}
	}
	return "none"
}

// idlingSoon is that of a container that was started a moment ago, which may be on its way
// to be that program still.
func idlingSoon(t *testing.T, id string) (pid int) {
	t.Helper()
	until(t, "the program to be what runs in the container", func() bool {
		var err error
		pid, err = strconv.Atoi(idling(t, id))
		return err == nil
	})
	return pid
}

// containers are what runs on a machine, with the processes: a container that was
// started again has another.
func containers(t *testing.T, m *enginetest.Machine) string {
	t.Helper()
	out, err := m.Docker(t.Context(), "ps", "--no-trunc", "--quiet")
	must(t, err)
	var all []string
	for _, id := range strings.Fields(out) {
		out, err := m.Docker(t.Context(), "inspect", "--format", "{{.State.Status}} {{.RestartCount}}", id)
		must(t, err)
		all = append(all, fmt.Sprintf("%s %s %s process %s", m.Name, id, strings.TrimSpace(out), idling(t, id)))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// TestControllerRebuiltUnderAService flashes the controller anew while a service runs on
// both workers, which nobody touches: no agent and no engine of theirs is started
// again. The controller finds the newest backup of the swarm with them; they
// are Ready again as who they were, and the service goes on with the tasks, the
// containers and the processes that it had.
func TestControllerRebuiltUnderAService(t *testing.T) {
	t.Parallel()
	c := homestead(t, clustertest.Options{Slots: []int{1, 2}})
	before := ids(c.WaitSettled())
	image := idler(t)
	for _, m := range c.Slots() {
		_, err := m.Docker(t.Context(), "import", "--change", `CMD ["/idle"]`, image, "idle:1")
		must(t, err)
	}
	docker(t, c, "service", "create", "--detach", "--no-resolve-image", "--name", "web", "--mode", "global",
		"--constraint", "node.role==worker", "--restart-delay", "1s", "--network", "host", "idle:1")
	tasks := func() string {
		out := docker(t, c, "service", "ps", "--no-trunc", "--format", "{{.ID}} {{.Node}} {{.DesiredState}} {{.CurrentState}}", "web")
		var all []string
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) >= 4 {
				all = append(all, strings.Join(f[:4], " "))
			}
		}
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	until(t, "the service to run on both", func() bool { return strings.Count(tasks(), "Running Running") == 2 })
	running := func() string { return containers(t, c.Slot(1)) + "\n" + containers(t, c.Slot(2)) }
	var had string
	until(t, "the programs to be what runs there", func() bool {
		had = running()
		return !strings.Contains(had, "process none")
	})
	hadTasks := tasks()
	if strings.Count(had, " running 0 process ") != 2 || strings.Contains(had, "process none") {
		t.Fatalf("the service has\n%s", had)
	}
	pids := fmt.Sprint(c.AgentPid(c.Slot(1)), c.AgentPid(c.Slot(2)))
	backedUp(t, c, "p1", "p2")

	flashAnew(t, c)
	if now := running(); now != had {
		t.Fatalf("without its controller the service has\n%s\nit had\n%s", now, had)
	}
	began := time.Now()
	c.PowerOn(c.Controller)
	heardOf(t, c, began, 1, 2)
	nodes := c.WaitSettled()
	t.Logf("Ready again %v after the controller's power-on", time.Since(began).Round(100*time.Millisecond))
	if after := ids(nodes); !maps.Equal(after, before) {
		t.Errorf("the nodes are %v, they were %v", after, before)
	}
	until(t, "the tasks to be as they were", func() bool { return tasks() == hadTasks })
	// A task that the manager has doubts about would be another one before long.
	docker(t, c, "service", "update", "--detach", "--label-add", "seen=yes", "web")
	for range 20 {
		if now := running(); now != had {
			t.Fatalf("the service has\n%s\nit had\n%s", now, had)
		}
		if now := tasks(); now != hadTasks {
			t.Fatalf("the tasks are\n%s\nthey were\n%s", now, hadTasks)
		}
		time.Sleep(250 * time.Millisecond)
	}
	if now := fmt.Sprint(c.AgentPid(c.Slot(1)), c.AgentPid(c.Slot(2))); now != pids {
		t.Errorf("agents were started again: %s, %s", pids, now)
	}
	if all := told(t, c); len(all) > 0 {
		t.Errorf("nodes had to join again: %q", all)
	}
	// It is managed, too.
	docker(t, c, "service", "rm", "web")
	until(t, "the service to end", func() bool {
		for _, m := range c.Slots() {
			// What is listed may be gone a moment later: nobody asks for more of it.
			out, err := m.Docker(t.Context(), "ps", "--no-trunc", "--quiet")
			must(t, err)
			if strings.TrimSpace(out) != "" {
				return false
			}
		}
		return true
	})
}
