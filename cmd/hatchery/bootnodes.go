package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// The list of nodes is the swarm's own: it is read by ssh, from the
// controller's guest, with the user's key.

// A swarmNode is a node, as the swarm's list has it.
type swarmNode struct {
	ID            string `json:"id"`
	Hostname      string `json:"hostname"`
	Status        string `json:"status"`
	Availability  string `json:"availability"`
	ManagerStatus string `json:"manager_status"` // Leader, Reachable; "" of a worker
	Engine        string `json:"engine"`         // version
	Self          bool   `json:"self"`           // it is the controller, which was asked
}

// nodeFormat makes `docker node ls` of any version say what a swarmNode holds:
// its formatter (docker/cli, cli/command/node/formatter.go) has no JSON of its
// own before 23.0. None of the values can have a | in it.
const nodeFormat = "{{.ID}}|{{.Hostname}}|{{.Status}}|{{.Availability}}|{{.ManagerStatus}}|{{.EngineVersion}}|{{.Self}}"

// parseNodes reads what nodeFormat made.
func parseNodes(text string) ([]swarmNode, error) {
	nodes := []swarmNode{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		f := strings.Split(line, "|")
		if len(f) != 7 {
			return nil, fmt.Errorf("docker's list of nodes has a line that is none: %q", line)
		}
		nodes = append(nodes, swarmNode{f[0], f[1], f[2], f[3], f[4], f[5], f[6] == "true"})
	}
	if len(nodes) == 0 {
		return nil, errors.New("docker's list of nodes is empty")
	}
	return nodes, nil
}

// A swarmList asks a swarm for its nodes, patiently: a log-in takes an emulated
// Zero 5 to 15 seconds, and more where the machine is busy.
type swarmList struct {
	tries   int
	pause   time.Duration // between tries
	connect time.Duration // until the guest's sshd has spoken
	whole   time.Duration // for one try
}

var defaultSwarmList = swarmList{tries: 3, pause: 5 * time.Second, connect: time.Minute, whole: 3 * time.Minute}

// ask runs `docker node ls` on a host, and gives what it printed.
func (l swarmList) ask(ctx context.Context, config, host string, args ...string) (string, error) {
	if !isHost(host) {
		return "", fmt.Errorf("%q is no host", host)
	}
	command := "docker node ls"
	for _, arg := range args {
		command += " " + quoteShell(arg)
	}
	for try := 1; ; try++ {
		text, err := l.once(ctx, config, host, command)
		var never keyRefusedError
		if err == nil || try >= l.tries || ctx.Err() != nil || errors.As(err, &never) || errors.Is(err, exec.ErrNotFound) {
			return text, err
		}
		select {
		case <-time.After(l.pause):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (l swarmList) once(ctx context.Context, config, host, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, l.whole)
	defer cancel()
	ssh := exec.CommandContext(ctx, "ssh", "-F", config, "-n",
		"-o", "BatchMode=yes", // asks for nothing
		"-o", fmt.Sprintf("ConnectTimeout=%d", int(l.connect.Seconds())),
		"-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=6",
		host, "--", command)
	var stdout bytes.Buffer
	var stderr tail
	ssh.Stdout, ssh.Stderr = &stdout, &stderr
	ssh.WaitDelay = 5 * time.Second // a program of its own (ProxyCommand) may hold on to the pipes
	err := ssh.Run()
	said := lastLine(stderr.String())
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("ssh to %s: %w", host, ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("there is no ssh on this machine: install OpenSSH's client (%w)", err)
	case errors.As(err, &exit) && exit.ExitCode() == 255 && strings.Contains(said, "Permission denied"):
		return "", keyRefusedError{host, said}
	case errors.As(err, &exit) && exit.ExitCode() == 255:
		return "", fmt.Errorf("ssh to %s: %s", host, orNone(said))
	case errors.As(err, &exit) && said != "":
		return "", fmt.Errorf("docker on %s: %s", host, said)
	}
	return "", fmt.Errorf("ssh to %s: %w", host, err)
}

// A keyRefusedError is a guest that none of the user's keys opens.
type keyRefusedError struct{ host, said string }

func (e keyRefusedError) Error() string {
	return fmt.Sprintf("no key of yours opens %s without a question: cluster.yaml names one by its line and not by its file, or it has a passphrase and no agent (ssh says %s)", e.host, e.said)
}

// lastLine is the last line of a text that is not empty.
func lastLine(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.TrimSpace(lines[i]); line != "" {
			return line
		}
	}
	return ""
}
