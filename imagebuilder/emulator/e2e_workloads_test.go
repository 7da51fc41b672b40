package emulator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// secretsFolder is where the controller's image has what the swarm is to have.
const secretsFolder = "/var/lib/hatchery/secrets"

// What the test app is given.
const (
	helloPassword = "a password that is nowhere else\n"
	helloGreeting = "good morning\n"
)

// helloService is what the swarm calls the test app.
const helloService = "hello_hello"

// helloDeclared is the part of cluster.yaml that has the cluster run it.
const helloDeclared = `env_file: ./workloads.env
networks: {greetings: {}}
secrets: {hello_password: ./password}
configs: {hello_greeting: ./greeting}
workloads: [./hello.yml]
wait_for: all
registry: true
`

// helloStack is examples/workloads/hello with a network, a secret and a config. It has
// no health check: a program more every few seconds is much for an emulated Zero. Two
// of its three tasks at most are on one node, so that one comes back to a node that
// comes back.
const helloStack = `services:
  hello:
    image: ${HELLO_IMAGE:-172.19.181.254:5000/hello:1}
    hostname: "{{.Node.Hostname}}"
    environment:
      HELLO_EVERY: 30s
    ports:
      - "8080:8080"
    networks: [greetings]
    secrets: [hello_password]
    configs:
      - {source: hello_greeting, target: /greeting}
    deploy:
      replicas: 3
      placement: {max_replicas_per_node: 2}
      resources:
        limits: {memory: 32M}
      restart_policy: {condition: any, delay: 5s}
networks:
  greetings: {external: true}
secrets:
  hello_password: {external: true}
configs:
  hello_greeting: {external: true}
`

// declared looks at what became of what cluster.yaml declares: by hatchery's own
// words, by Docker's, in the tasks, and on the card, which had the secret.
func (s *scenario) declared(t *testing.T) {
	s.eventually(t, "hatchery workloads status has all of it", settleLimit, func(ctx context.Context) (bool, string) {
		out, err := s.controller.run(ctx, "sudo hatchery workloads status --json")
		var status struct {
			State  string
			Stacks []struct {
				Name, State string
				Services    []struct {
					Name             string
					Running, Desired int
				}
			}
		}
		if err == nil {
			err = json.Unmarshal([]byte(out), &status)
		}
		if err != nil || status.State != "applied" || len(status.Stacks) != 1 || len(status.Stacks[0].Services) != 1 {
			return false, fmt.Sprintf("%s(%v)", out, err)
		}
		hello := status.Stacks[0]
		return hello.Name == "hello" && hello.State == "applied" && hello.Services[0].Name == helloService &&
			hello.Services[0].Running == 3 && hello.Services[0].Desired == 3, out
	})
	out, err := s.controller.run(s.ctx, "sudo hatchery workloads status")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("hatchery workloads status:\n%s", out)
	out, err = s.controller.run(s.ctx, "docker secret ls --format '{{.Name}}'; docker config ls --format '{{.Name}}'; docker network ls --filter driver=overlay --format '{{.Name}}'")
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(out)
	slices.Sort(names)
	if !regexp.MustCompile(`^greetings hello_greeting-[0-9a-f]{12} hello_password-[0-9a-f]{12} ingress$`).MatchString(strings.Join(names, " ")) {
		t.Errorf("Docker has the secrets, configs and networks %q", names)
	}
	p1, err := s.toP1(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The image has no program that could show a file: the kernel shows what a task sees.
	const seen = `sudo sh -c 'for task in $(docker ps -q -f label=com.docker.swarm.service.name=` + helloService + `); do
		root=/proc/$(docker inspect -f "{{.State.Pid}}" "$task")/root && cat "$root/run/secrets/hello_password" "$root/greeting" || exit; done'`
	tasks := 0
	for _, guest := range []*guestShell{s.controller, p1} {
		out, err := guest.run(s.ctx, seen)
		if err != nil {
			t.Fatal(err)
		}
		each := strings.Count(out, helloPassword+helloGreeting)
		if each == 0 || out != strings.Repeat(helloPassword+helloGreeting, each) {
			t.Errorf("the tasks of %s see %q", guest.name, out)
		}
		tasks += each
	}
	if tasks != 3 {
		t.Errorf("%d tasks see secret and config, want 3", tasks)
	}
	out, err = s.controller.run(s.ctx, "sudo find "+secretsFolder+" -mindepth 1; sudo grep -rlsF '"+strings.TrimSpace(helloPassword)+"' /var/lib/hatchery /etc/hatchery; true")
	if err != nil || out != "" {
		t.Errorf("on the controller's card there still is %q (%v)", out, err)
	}
}
