//go:build linux

package swarm_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"hatchery/internal/swarm"
)

func TestThere(t *testing.T) {
	for state, want := range map[string]bool{
		"new": true, "allocated": true, "pending": true, "assigned": true, "accepted": true, "preparing": true, "ready": true, "starting": true, "running": true,
		"complete": false, "shutdown": false, "failed": false, "rejected": false, "remove": false, "orphaned": false,
	} {
		if there := (swarm.Task{State: state}).There(); there != want {
			t.Errorf("a task that is %s is there: %v", state, there)
		}
	}
}

// TestWorkload: tasks and services as a manager sees them, of an image whose program
// is none.
func TestWorkload(t *testing.T) {
	t.Parallel()
	l := lab(t, 1)
	e := l.Controller.Engine()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	docker := func(args ...string) {
		t.Helper()
		_, err := l.Controller.Docker(ctx, args...)
		must(t, err)
	}
	if services, err := e.Services(ctx); err != nil || len(services) != 0 {
		t.Fatalf("%+v, %v", services, err)
	}
	if tasks, err := e.Tasks(ctx, ""); err != nil || len(tasks) != 0 {
		t.Fatalf("%+v, %v", tasks, err)
	}
	must(t, e.LoadImages(ctx, bytes.NewReader(archive(t, "hatchery.test/hello:1"))))
	docker("service", "create", "--detach", "--no-resolve-image", "--replicas", "2", "--name", "web", "--network", "host", "--restart-condition", "none", "hatchery.test/hello:1")
	docker("service", "create", "--detach", "--no-resolve-image", "--mode", "global", "--name", "far", "--constraint", "node.labels.no==where", "hatchery.test/hello:1")
	docker("service", "create", "--detach", "--no-resolve-image", "--mode", "replicated-job", "--name", "job", "--constraint", "node.labels.no==where", "hatchery.test/hello:1")
	i, err := e.Info(ctx)
	must(t, err)
	var tasks []swarm.Task
	eventually(t, "both replicas have failed", func() bool {
		tasks, err = e.Tasks(ctx, i.NodeID)
		must(t, err)
		return len(tasks) == 2 && !tasks[0].There() && !tasks[1].There()
	})
	modes := map[string]string{}
	services, err := e.Services(ctx)
	must(t, err)
	for _, s := range services {
		modes[s.Name] = s.Mode
		switch {
		case s.Name == "web" && (s.Running != 0 || s.Desired != 2 || s.Image != "hatchery.test/hello:1"),
			s.Name == "far" && (s.Running != 0 || s.Desired != 0):
			t.Errorf("%+v", s)
		}
		for _, task := range tasks {
			if s.Name == "web" && (task.ServiceID != s.ID || task.NodeID != i.NodeID || task.Error == "" || task.Image != s.Image || task.Replica < 1 || task.Replica > 2 || task.ID == "" || task.Updated.IsZero()) {
				t.Errorf("%+v", task)
			}
		}
	}
	if len(modes) != 3 || modes["web"] != swarm.Replicated || modes["far"] != swarm.Global || modes["job"] != swarm.ReplicatedJob {
		t.Errorf("the services are %v", modes)
	}
	// A node's name is no ID.
	if tasks, err := e.Tasks(ctx, i.Hostname); err != nil || len(tasks) != 0 {
		t.Errorf("%+v, %v", tasks, err)
	}
	all, err := e.Tasks(ctx, "")
	must(t, err)
	if len(all) < 3 { // the job's has no node
		t.Errorf("%+v", all)
	}
}
