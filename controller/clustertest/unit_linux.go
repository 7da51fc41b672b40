package clustertest

import (
	"sync"
	"time"

	"hatchery/internal/enginetest"
)

// A unit is the controller's service, as systemd has it: started and stopped by
// whoever asks, and started again where it ends by itself.
type unit struct {
	begin func() (*enginetest.Process, error)

	mu      sync.Mutex
	process *enginetest.Process
	wanted  bool // it is to run
}

// again is how long after its end a process is started anew.
const again = time.Second

func (u *unit) Start() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.process != nil && u.process.Running() {
		return nil
	}
	p, err := u.begin()
	if err != nil {
		return err
	}
	u.process, u.wanted = p, true
	go u.watch(p)
	return nil
}

func (u *unit) watch(p *enginetest.Process) {
	<-p.Done()
	time.Sleep(again)
	u.mu.Lock()
	ended := u.process == p && u.wanted
	u.mu.Unlock()
	if ended {
		_ = u.Start() // where the lab is gone, there is nothing to start
	}
}

// take is the process that is to end, nil if it never began.
func (u *unit) take() *enginetest.Process {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wanted = false
	return u.process
}

func (u *unit) Stop() error {
	if p := u.take(); p != nil && p.Running() {
		return p.Stop()
	}
	return nil
}

func (u *unit) kill() {
	if p := u.take(); p != nil {
		p.Kill()
	}
}

func (u *unit) Running() bool { return u.pid() != 0 }

func (u *unit) pid() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.process == nil || !u.process.Running() {
		return 0
	}
	return u.process.Pid
}
