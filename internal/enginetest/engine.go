//go:build linux

package enginetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// engine is a machine's dockerd. Its jobs are done one after the other, as
// systemd's are.
type engine struct {
	machine *Machine
	jobs    sync.Mutex // held while it is started or stopped

	mu        sync.Mutex
	process   *Process // nil: never started, or stopped
	wanted    bool     // it is to run
	abandoned bool     // the lab ends
	ended     string   // why it ended unasked
	refusal   string   // why it is not to be started (RefuseEngine)
}

// daemonJSON is what the images' daemon.json says of the network: Docker's own
// choice of addresses would take 172.19.
const daemonJSON = `{
  "bip": "172.17.0.1/16",
  "default-address-pools": [
    {"base": "172.18.0.0/16", "size": 24},
    {"base": "172.20.0.0/14", "size": 24}
  ]
}
`

// inside makes what the engine sees before it becomes the engine: /proc of its
// own process ids, and no containerd of the machine that the tests run on,
// which it would use instead of one of its own; and the machine's /etc/docker, if
// it has one.
const inside = `
mount --make-rprivate /
mount -t proc proc /proc
if [ -d /run/containerd ]; then
	mount -t tmpfs tmpfs /run/containerd
fi
if [ -d "$0" ]; then
	mkdir -p /etc/docker
	mount --bind "$0" /etc/docker
fi
exec "$@"
`

// StartEngine starts the engine if it does not run, and waits till it answers.
func (m *Machine) StartEngine(ctx context.Context) error {
	e := &m.engine
	e.jobs.Lock()
	defer e.jobs.Unlock()
	if err := e.start(); err != nil {
		return err
	}
	return m.WaitEngine(ctx)
}

// start starts the process; e.jobs is held.
func (e *engine) start() error {
	m := e.machine
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.abandoned:
		return fmt.Errorf("the engine of %s is not started: the test is over", m.Name)
	case e.refusal != "":
		e.ended = e.refusal
		return fmt.Errorf("the engine of %s is not started: %s", m.Name, e.refusal)
	case e.process != nil && e.process.running():
		return nil
	}
	config := filepath.Join(m.DockerConfig(), "daemon.json")
	if _, err := os.Stat(config); err != nil {
		config = filepath.Join(m.Dir, "daemon.json")
		if err := os.WriteFile(config, []byte(daemonJSON), 0o644); err != nil {
			return err
		}
	}
	// What was not ended in order has left these behind, as after a power cut
	// the real /run has not.
	exec := filepath.Join(m.Dir, "exec")
	pid := filepath.Join(m.Dir, "docker.pid")
	for _, path := range []string{exec, pid} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	c := m.Command(context.Background(), "sh", "-euc", inside, m.DockerConfig(),
		"dockerd", "--config-file", config, "--data-root", m.DockerRoot(), "--exec-root", exec,
		"--host", m.EngineHost(), "--pidfile", pid)
	// With process ids and mounts of its own, everything that it started ends
	// with it: its containerd, the containers.
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	p, err := m.Go("dockerd", c)
	if err != nil {
		return err
	}
	e.process, e.wanted, e.ended = p, true, ""
	go e.watch(p)
	return nil
}

// watch does what systemd does when an engine ends unasked.
func (e *engine) watch(p *Process) {
	<-p.Done()
	e.mu.Lock()
	unasked := e.process == p && e.wanted && !e.abandoned
	if unasked {
		e.ended = "dockerd: " + p.ending()
	}
	e.mu.Unlock()
	if !unasked || !e.machine.lab.options.Restart {
		return
	}
	time.Sleep(restartAfter)
	e.jobs.Lock()
	defer e.jobs.Unlock()
	e.mu.Lock()
	again := e.process == p && e.wanted && !e.abandoned
	e.mu.Unlock()
	if again {
		// A refusal stands in the unit's state.
		_ = e.start()
	}
}

const restartAfter = time.Second

// take is the process that is to end, unless it has: nil. It is not started
// again by itself.
func (e *engine) take() *Process {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wanted, e.ended = false, ""
	return e.process
}

// StopEngine stops the engine in order, if it runs.
func (m *Machine) StopEngine() error {
	m.engine.jobs.Lock()
	defer m.engine.jobs.Unlock()
	p := m.engine.take()
	if p == nil || !p.running() {
		return nil
	}
	if err := p.Stop(); err != nil {
		return fmt.Errorf("stopping the engine of %s: %w", m.Name, err)
	}
	return nil
}

// KillEngine kills the engine (-9) if it runs, and all its containers with it,
// as a power cut would. With Options.Restart that is unasked: it comes back.
func (m *Machine) KillEngine() {
	e := &m.engine
	if !m.lab.options.Restart {
		e.powerCut()
		return
	}
	e.mu.Lock()
	p := e.process
	e.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// CutPower kills the engine as KillEngine does, and it stays down whatever the
// options say. Other processes are the caller's to end.
func (m *Machine) CutPower() { m.engine.powerCut() }

// powerCut kills the engine, and it stays down.
func (e *engine) powerCut() {
	e.jobs.Lock()
	defer e.jobs.Unlock()
	if p := e.take(); p != nil {
		p.Kill()
	}
}

// RestartEngine stops the engine in order and starts it.
func (m *Machine) RestartEngine(ctx context.Context) error {
	if err := m.StopEngine(); err != nil {
		return err
	}
	return m.StartEngine(ctx)
}

// RefuseEngine has every start of the engine fail for a reason, until it is
// called with none. An engine that runs is left alone.
func (m *Machine) RefuseEngine(reason string) {
	m.engine.mu.Lock()
	defer m.engine.mu.Unlock()
	m.engine.refusal = reason
}

// startLimit is how long an engine may take till it answers.
const startLimit = 2 * time.Minute

// WaitEngine waits till the engine answers. It fails as soon as the engine has
// ended.
func (m *Machine) WaitEngine(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	m.engine.mu.Lock()
	p := m.engine.process
	m.engine.mu.Unlock()
	if p == nil {
		return fmt.Errorf("the engine of %s was not started", m.Name)
	}
	for {
		err := m.Engine().Ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("the engine of %s has ended: %s\n%s", m.Name, p.ending(), tail(m.Log("dockerd"), 2<<10))
		case <-ctx.Done():
			return fmt.Errorf("the engine of %s does not answer: %w (%w)", m.Name, err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// state is the unit's, as systemd's ActiveState has it, and why it failed.
func (e *engine) state() (active, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.process != nil && e.process.running():
		return "active", ""
	case e.ended != "":
		return "failed", e.ended
	case e.process != nil && e.wanted && !e.abandoned:
		return "failed", "dockerd: " + e.process.ending() // watch has not got so far
	}
	return "inactive", ""
}

// abandon keeps the engine from being started again, and kills it.
func (e *engine) abandon() {
	e.mu.Lock()
	e.abandoned = true
	e.mu.Unlock()
}
