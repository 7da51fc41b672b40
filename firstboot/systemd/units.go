package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// PrivateSocket is where systemd itself listens, without a D-Bus daemon: it
// is there early in the boot. It is for root only.
const PrivateSocket = "/run/systemd/private"

// noSuchUnit is systemd's error for a unit that is not loaded and has no file
// (src/libsystemd/sd-bus/bus-common-errors.h).
const noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"

// Units starts and stops units. Its zero value uses systemd's private socket,
// and the system bus where that is not there. A connection that broke is made
// anew at the next call.
type Units struct {
	// Socket is another socket in place of PrivateSocket and the system bus.
	Socket string
	// Connect is how long a connection may take to be made: 30 s.
	Connect time.Duration

	mu   sync.Mutex
	conn *dbus.Conn
}

// A UnitError says why a unit did not start or stop.
type UnitError struct {
	Unit   string
	Verb   string // start, stop
	Result string // of the job: failed, dependency, timeout, canceled, skipped
	Reason string // what the unit itself says
	Err    error  // why nobody waits for it any more
}

func (e *UnitError) Unwrap() error { return e.Err }

func (e *UnitError) Error() string {
	text := fmt.Sprintf("cannot %s %s: %s", e.Verb, e.Unit, e.Result)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	return text + "; `journalctl -u " + e.Unit + "` has more"
}

// Close closes the connection.
func (u *Units) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop()
}

func (u *Units) drop() {
	if u.conn != nil {
		u.conn.Close()
		u.conn = nil
	}
}

// connect gives the connection. Of the context it takes nothing along: the
// connection outlives it.
func (u *Units) connect() (*dbus.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn != nil && u.conn.Connected() {
		return u.conn, nil
	}
	u.drop()
	socket := u.Socket
	if socket == "" {
		socket = PrivateSocket
	}
	conn, err := u.inTime(func(ctx context.Context) (*dbus.Conn, error) {
		return dbus.NewConnection(func() (*godbus.Conn, error) { return dial(ctx, socket) })
	})
	if err != nil && u.Socket == "" {
		var berr error
		if conn, berr = u.inTime(dbus.NewSystemConnectionContext); berr != nil {
			err = errors.Join(err, berr)
		} else {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach systemd: %w", err)
	}
	u.conn = conn
	return conn, nil
}

// inTime makes a connection, or gives up: a bus that takes connections and says
// nothing must not hold up the steps for ever. A connection ends with its
// context, so that this one ends only if it is late.
func (u *Units) inTime(connect func(context.Context) (*dbus.Conn, error)) (*dbus.Conn, error) {
	most := cmp.Or(u.Connect, 30*time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	late := time.AfterFunc(most, cancel)
	conn, err := connect(ctx)
	if late.Stop() {
		if err != nil {
			cancel()
		}
		return conn, err
	}
	if err == nil {
		conn.Close()
	}
	return nil, fmt.Errorf("nobody answers there within %v", most)
}

// dial connects to systemd itself, which wants no Hello.
func dial(ctx context.Context, socket string) (*godbus.Conn, error) {
	conn, err := godbus.Dial("unix:path="+godbus.EscapeBusAddressValue(socket), godbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(syscall.Getuid()))}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// StartUnit starts a unit and waits until it runs. The error is a *UnitError
// where systemd did what it could.
func (u *Units) StartUnit(ctx context.Context, name string) error {
	return u.job(ctx, "start", name, (*dbus.Conn).StartUnitContext)
}

// StopUnit stops a unit and waits until it is gone.
func (u *Units) StopUnit(ctx context.Context, name string) error {
	return u.job(ctx, "stop", name, (*dbus.Conn).StopUnitContext)
}

func (u *Units) job(ctx context.Context, verb, name string, call func(*dbus.Conn, context.Context, string, string, chan<- string) (int, error)) error {
	conn, err := u.connect()
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w", verb, name, err)
	}
	// Room for the result: nobody may be there to take it.
	result := make(chan string, 1)
	if _, err := call(conn, ctx, name, "replace", result); err != nil {
		var refused godbus.Error
		if errors.As(err, &refused) && refused.Name == noSuchUnit && verb == "stop" {
			return nil // what is not there does not run
		}
		return fmt.Errorf("cannot %s %s: %w", verb, name, err)
	}
	// A systemd that is replaced by a newer one (daemon-reexec) drops its
	// connections, and with them what it has to say of the job.
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case r := <-result:
			return u.judge(ctx, verb, name, r)
		case <-look.C:
			if conn.Connected() {
				continue
			}
			if p, err := u.properties(ctx, name); err == nil && !p.changing() {
				return p.verdict(verb, name)
			}
		case <-ctx.Done():
			return u.unfinished(verb, name, context.Cause(ctx))
		}
	}
}

func (u *Units) unfinished(verb, name string, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e := &UnitError{Unit: name, Verb: verb, Result: "systemd is still at it", Err: cause}
	if p, err := u.properties(ctx, name); err == nil {
		e.Reason = p.reason()
	}
	return e
}

// judge says what became of a job by its result, and by the unit's own words.
func (u *Units) judge(ctx context.Context, verb, name, result string) error {
	p, err := u.properties(ctx, name)
	if result == "done" {
		if err != nil {
			return nil
		}
		return p.verdict(verb, name)
	}
	e := &UnitError{Unit: name, Verb: verb, Result: result}
	if err == nil {
		e.Reason = p.reason()
	}
	return e
}

// UnitState gives a unit's ActiveState (active, inactive, activating, failed
// …) and why it is in it, "" where there is nothing to say.
func (u *Units) UnitState(ctx context.Context, name string) (active, reason string, err error) {
	p, err := u.properties(ctx, name)
	if err != nil {
		return "", "", err
	}
	return p.active, p.reason(), nil
}

// properties reads what org.freedesktop.systemd1(5) has of a unit.
func (u *Units) properties(ctx context.Context, name string) (*properties, error) {
	conn, err := u.connect()
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the state of %s: %w", name, err)
	}
	p := new(properties)
	for _, q := range []struct {
		name string
		into any
	}{
		{"LoadState", &p.load},
		{"ActiveState", &p.active},
		{"SubState", &p.sub},
		{"ConditionResult", &p.condition},
		{"ConditionTimestamp", &p.tested},
		{"Conditions", &p.conditions},
	} {
		v, err := conn.GetUnitPropertyContext(ctx, name, q.name)
		if err == nil {
			err = godbus.Store([]any{v.Value}, q.into)
		}
		if err == nil {
			continue
		}
		// Without the conditions the rest is as good.
		if !strings.HasPrefix(q.name, "Condition") {
			return nil, fmt.Errorf("cannot ask for the state of %s: %w", name, err)
		}
	}
	kind := kindOf(name)
	for _, q := range []struct {
		name string
		into any
	}{
		{"Result", &p.result},
		{"ExecMainCode", &p.code},
		{"ExecMainStatus", &p.status},
		{"NRestarts", &p.restarts},
	} {
		// Not every kind of unit has all of them.
		if v, err := conn.GetUnitTypePropertyContext(ctx, name, kind, q.name); err == nil {
			_ = godbus.Store([]any{v.Value}, q.into)
		}
	}
	return p, nil
}

// kindOf gives the D-Bus interface of a unit's kind: Service for docker.service.
func kindOf(name string) string {
	kind := name[strings.LastIndexByte(name, '.')+1:]
	if kind == "" {
		return "Service"
	}
	return strings.ToUpper(kind[:1]) + kind[1:]
}

type properties struct {
	load, active, sub, result string
	// condition says whether all conditions were met when they were tested,
	// in microseconds since 1970. A unit that nobody refers to is forgotten
	// when it has ended, and then they were never tested.
	condition  bool
	tested     uint64
	conditions []condition

	code, status int32
	restarts     uint32
}

// A condition is one of a unit's Condition…= lines and what became of it:
// above 0 it was met, below 0 it was not.
type condition struct {
	Type            string
	Trigger, Negate bool
	Parameter       string
	State           int32
}

// unmet says whether a condition kept the unit from being started.
func (p *properties) unmet() bool { return p.tested != 0 && !p.condition }

func (p *properties) changing() bool {
	return p.active == "activating" || p.active == "deactivating" || p.active == "reloading"
}

// verdict is for a job that systemd calls done.
func (p *properties) verdict(verb, name string) error {
	switch {
	case verb == "stop" && (p.active == "inactive" || p.active == "failed"):
		return nil
	case verb != "stop" && (p.active == "active" || p.active == "reloading" || p.active == "activating"):
		return nil
	case verb != "stop" && p.active == "inactive" && !p.unmet() && p.load == "loaded":
		return nil // a oneshot that ended well
	}
	return &UnitError{Unit: name, Verb: verb, Result: "it is " + p.active, Reason: p.reason()}
}

// The codes of ExecMainCode, CLD_… of <signal.h>.
const (
	exited = 1
	killed = 2
	dumped = 3
)

// reason puts the properties into words.
func (p *properties) reason() string {
	switch p.load {
	case "not-found":
		return "there is no such unit"
	case "masked":
		return "it is masked"
	case "error", "bad-setting":
		return "its file has mistakes"
	}
	var words []string
	if p.unmet() && p.active != "active" {
		words = append(words, "a condition is not met")
		for _, c := range p.conditions {
			if c.State < 0 {
				not := ""
				if c.Negate {
					not = "!"
				}
				words[0] += ": " + c.Type + "=" + not + c.Parameter
				break
			}
		}
	}
	if p.active == "active" {
		return strings.Join(words, ", ")
	}
	switch p.result {
	case "", "success":
	case "exit-code", "signal", "core-dump":
		switch p.code {
		case exited:
			words = append(words, fmt.Sprintf("its process ended with exit code %d", p.status))
		case killed, dumped:
			words = append(words, fmt.Sprintf("its process was ended by signal %d (%v)", p.status, syscall.Signal(p.status)))
		default:
			words = append(words, p.result)
		}
	case "start-limit-hit":
		words = append(words, "it failed too often in a short time")
	case "timeout":
		words = append(words, "it took too long")
	default:
		words = append(words, p.result)
	}
	if p.sub == "auto-restart" {
		words = append(words, fmt.Sprintf("systemd starts it again, %d times so far", p.restarts))
	}
	return strings.Join(words, ", ")
}
