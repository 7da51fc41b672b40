package emulator_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"hatchery/internal/clusterctrl"
)

// pushedImage is what is built outside, and pushed.
const pushedImage = "172.19.181.254:5000/hello:2"

// updateLimit is for three tasks, which take emulated Zeros minutes to fetch and to start.
const updateLimit = 3 * serviceLimit

// registry has an image that no node has pushed to the cluster's registry, as
// docs/registry.md tells, and the app's three tasks on two nodes take it. There is no
// internet here: p1 can have it from nowhere else.
func (s *scenario) registry(t *testing.T) {
	ctx, cancel := context.WithTimeout(s.ctx, updateLimit)
	defer cancel()
	steps := []struct {
		command string
		input   []byte
	}{
		{"docker load", s.pushed},
		{"docker push " + pushedImage, nil},
		{"docker service update --detach --quiet --update-parallelism 0 --image " + pushedImage + " " + helloService, nil},
	}
	for _, step := range steps {
		out, err := s.controller.give(ctx, step.command, bytes.NewReader(step.input))
		if err != nil {
			t.Fatalf("%v\n%s", err, s.registrySays(ctx))
		}
		t.Logf("%s:\n%s", strings.Fields(step.command)[1], out)
	}
	s.eventually(t, "three tasks of what was pushed run, on both nodes", updateLimit, func(ctx context.Context) (bool, string) {
		out, err := s.controller.run(ctx, "docker service ps --no-trunc --filter desired-state=running --format '{{.Node}} {{.Image}} {{.CurrentState}} {{.Error}}' "+helloService)
		running, on := 0, map[string]bool{}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[1], pushedImage) && f[2] == "Running" {
				running++
				on[f[0]] = true
			}
		}
		return err == nil && running == 3 && len(on) == 2, fmt.Sprintf("%s(%v)\n", out, err)
	})
	s.answered(t, httpBy(s.controller.dial, true), net.JoinHostPort(clusterctrl.SlotAddr(1).String(), fmt.Sprint(helloPort)), "controller", "p1")
	p1, err := s.toP1(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const digests = "docker image inspect --format '{{.RepoDigests}}' "
	out, err := p1.run(ctx, digests+"$(docker ps -q --filter label=com.docker.swarm.service.name="+helloService+" | head -n 1 | xargs docker inspect --format '{{.Image}}')")
	if err != nil || !strings.Contains(out, "172.19.181.254:5000/hello@sha256:") {
		t.Errorf("p1 has the image from %q (%v)", out, err)
	}
	t.Log(s.registrySays(ctx))
}

// registrySays is how the registry's unit stands, and what it takes.
func (s *scenario) registrySays(ctx context.Context) string {
	out, err := s.controller.run(ctx, "systemctl --no-pager --lines=20 --full status hatchery-registry; sudo du -sh /var/lib/hatchery/registry")
	if err != nil {
		return err.Error()
	}
	return out
}
