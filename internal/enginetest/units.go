package enginetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// The units that a machine has.
const (
	DockerService = "docker.service"
	// DockerSocket is there to be stopped, and does nothing.
	DockerSocket = "docker.socket"
)

// Units is a client of what stands for a machine's systemd.
type Units struct{ socket string }

// DialUnits gives the units of the machine whose UnitsSocket that is. Each
// call connects by itself.
func DialUnits(socket string) *Units { return &Units{socket} }

type unitRequest struct {
	Do   string `json:"do"` // start, stop or state
	Unit string `json:"unit"`
}

type unitAnswer struct {
	Active string `json:"active,omitempty"`
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`
}

// StartUnit starts a unit and waits till its start is complete: an engine
// answers then.
func (u *Units) StartUnit(ctx context.Context, name string) error {
	_, err := u.ask(ctx, unitRequest{"start", name})
	return err
}

// StopUnit stops a unit and waits till it has ended.
func (u *Units) StopUnit(ctx context.Context, name string) error {
	_, err := u.ask(ctx, unitRequest{"stop", name})
	return err
}

// UnitState is the unit's ActiveState (active, inactive or failed), and why it
// failed.
func (u *Units) UnitState(ctx context.Context, name string) (active, reason string, err error) {
	a, err := u.ask(ctx, unitRequest{"state", name})
	return a.Active, a.Reason, err
}

func (u *Units) ask(ctx context.Context, r unitRequest) (unitAnswer, error) {
	var a unitAnswer
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", u.socket)
	if err != nil {
		return a, fmt.Errorf("asking the lab to %s %s: %w", r.Do, r.Unit, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	err = json.NewEncoder(c).Encode(r)
	if err == nil {
		err = json.NewDecoder(bufio.NewReader(c)).Decode(&a)
	}
	switch {
	case ctx.Err() != nil:
		return a, fmt.Errorf("asking the lab to %s %s: %w", r.Do, r.Unit, ctx.Err())
	case err != nil:
		return a, fmt.Errorf("asking the lab to %s %s: %w", r.Do, r.Unit, err)
	case a.Error != "":
		return a, errors.New(a.Error)
	}
	return a, nil
}
