//go:build linux

package enginetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A Process runs in a machine.
type Process struct {
	Name string
	Pid  int

	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended, once done is closed
	kill sync.Once
}

// Go starts a process, usually one of Command's. What it writes to where the
// command does not say otherwise goes to a log, which is shown if the test
// fails and which every process of that name adds to. It is killed when the
// test ends.
func (m *Machine) Go(name string, c *exec.Cmd) (*Process, error) {
	log, err := os.OpenFile(m.Log(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if c.Stdout == nil {
		c.Stdout = log
	}
	if c.Stderr == nil {
		c.Stderr = log
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", name, m.Name, err)
	}
	p := &Process{Name: name, Pid: c.Process.Pid, cmd: c, done: make(chan struct{})}
	go func() {
		p.err = c.Wait()
		close(p.done)
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.processes = append(m.processes, p)
	return p, nil
}

// Log is where the output of the processes of that name goes; the engine's is
// "dockerd".
func (m *Machine) Log(name string) string { return filepath.Join(m.Dir, "log", name+".log") }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process to end, and tells how it did.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s to end: %w", p.Name, ctx.Err())
	}
}

// Kill kills the process (-9) and waits till it is gone.
func (p *Process) Kill() {
	p.kill.Do(func() { _ = p.cmd.Process.Kill() }) // it may have ended already
	<-p.done
}

// Stop asks the process to end (SIGTERM), and kills it if it does not within
// a time that is ample.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.done:
		return p.err
	case <-time.After(stopLimit):
		p.Kill()
		return fmt.Errorf("%s did not end within %s of being asked to", p.Name, stopLimit)
	}
}

// stopLimit is how long a process may take to end by itself.
const stopLimit = time.Minute

// ownSession keeps a child from getting the signals that a terminal sends to
// the test.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// Running says whether the process has not ended.
func (p *Process) Running() bool { return p.running() }

// running says whether the process has not ended.
func (p *Process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ending is how the process ended, "" while it runs.
func (p *Process) ending() string {
	if p.running() {
		return ""
	}
	return p.cmd.ProcessState.String()
}
