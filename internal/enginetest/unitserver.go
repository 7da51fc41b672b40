//go:build linux

package enginetest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
)

// unitServer answers Units, for one machine.
type unitServer struct {
	machine *Machine
	listen  net.Listener
	ctx     context.Context // ends with the server
	cancel  context.CancelFunc
	open    sync.WaitGroup
}

func serveUnits(m *Machine) (*unitServer, error) {
	l, err := net.Listen("unix", m.UnitsSocket())
	if err != nil {
		return nil, fmt.Errorf("the units of %s: %w", m.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &unitServer{machine: m, listen: l, ctx: ctx, cancel: cancel}
	s.open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			s.open.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				var r unitRequest
				if json.NewDecoder(c).Decode(&r) != nil {
					return // whoever asked was killed
				}
				// Whoever asked may be gone by now: the job is done all the same.
				_ = json.NewEncoder(c).Encode(s.answer(r))
			})
		}
	})
	return s, nil
}

func (s *unitServer) answer(r unitRequest) (a unitAnswer) {
	var err error
	switch m := s.machine; {
	case r.Unit == DockerSocket:
		a.Active = "inactive"
		return a
	case r.Unit != DockerService:
		a.Active, err = m.otherUnit(r)
	case r.Do == "start":
		err = m.StartEngine(s.ctx)
	case r.Do == "stop":
		err = m.StopEngine()
	case r.Do != "state":
		err = fmt.Errorf("a unit cannot be asked to %q", r.Do)
	}
	if err != nil {
		a.Error = err.Error()
	}
	if r.Unit == DockerService {
		a.Active, a.Reason = s.machine.engine.state()
	}
	return a
}

// A Unit is one that a test plays beside the engine's.
type Unit interface {
	// Start starts it if it does not run, Stop stops it if it does.
	Start() error
	Stop() error
	Running() bool
}

// AddUnit has the machine's units know another one.
func (m *Machine) AddUnit(name string, u Unit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.others == nil {
		m.others = make(map[string]Unit)
	}
	m.others[name] = u
}

func (m *Machine) otherUnit(r unitRequest) (active string, err error) {
	m.mu.Lock()
	u := m.others[r.Unit]
	m.mu.Unlock()
	if u == nil {
		return "", fmt.Errorf("unit %s not found", r.Unit)
	}
	switch r.Do {
	case "start":
		err = u.Start()
	case "stop":
		err = u.Stop()
	case "state":
	default:
		err = fmt.Errorf("a unit cannot be asked to %q", r.Do)
	}
	active = "inactive"
	if u.Running() {
		active = "active"
	}
	return active, err
}

func (s *unitServer) close() {
	s.cancel()
	s.listen.Close()
	s.open.Wait()
}
