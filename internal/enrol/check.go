package enrol

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// How long the fields of a body may be, in bytes.
const (
	maxWord = 128  // of an id, a version, a name of a step
	maxText = 1024 // of what is for people
	maxNote = 256  // of a token
)

// ReadJoin reads and checks the body of POST /v1/join. Its errors are *Error.
func ReadJoin(w http.ResponseWriter, r *http.Request) (*JoinRequest, error) {
	body := new(JoinRequest)
	if err := ReadBody(w, r, body, MaxRequest); err != nil {
		return nil, err
	}
	return body, body.Check()
}

// ReadStatus reads and checks the body of POST /v1/status. Its errors are
// *Error.
func ReadStatus(w http.ResponseWriter, r *http.Request) (*StatusReport, error) {
	body := new(StatusReport)
	if err := ReadBody(w, r, body, MaxRequest); err != nil {
		return nil, err
	}
	return body, body.Check()
}

// Check sees that a request is one: ids that can be ids, and nothing that
// would disturb the terminal of whoever reads it later. It cuts what is for
// people to a length, and takes control characters from it.
func (r *JoinRequest) Check() error {
	return bad(first(bootID(r.BootID), word("agent_version", r.AgentVersion), r.Swarm.check()))
}

// Check is [JoinRequest.Check] for a report.
func (r *StatusReport) Check() error {
	err := first(bootID(r.BootID), word("agent_version", r.AgentVersion), word("step", r.Step), r.Swarm.check())
	switch {
	case err != nil:
	case r.Step == "":
		err = errors.New("step is missing")
	case r.State != StateWaiting && r.State != StateRunning && r.State != StateDone && r.State != StateFailed:
		err = fmt.Errorf("state %.40q is none: waiting, running, done, failed", r.State)
	case r.Seq < 0:
		err = fmt.Errorf("seq %d is negative", r.Seq)
	}
	r.Detail = tidy(r.Detail)
	return bad(err)
}

func (s *SwarmState) check() error {
	s.Error = tidy(s.Error)
	switch s.State {
	case "", "inactive", "pending", "active", "error", "locked":
	default:
		return fmt.Errorf("swarm.state %.40q is none of an engine's", s.State)
	}
	return first(id("swarm.node_id", s.NodeID), id("swarm.cluster_id", s.ClusterID))
}

// check sees that an answer can be acted on.
func (a *JoinAnswer) check() error {
	a.Reason = tidy(a.Reason)
	switch a.Action {
	case Stay, Wait:
	case Join, LeaveAndJoin:
		if a.JoinToken == "" || len(a.JoinToken) > maxNote || strings.ContainsFunc(string(a.JoinToken), notPrintable) {
			return errors.New("it is to join, and there is no token that could be one")
		}
		if len(a.RemoteAddrs) == 0 {
			return errors.New("it is to join, and there is no address")
		}
	default:
		return fmt.Errorf("the action %.40q is unknown here: build this node's image with the hatchery that the controller has", a.Action)
	}
	for _, remote := range a.RemoteAddrs {
		if _, err := netip.ParseAddrPort(remote); err != nil {
			return fmt.Errorf("remote_addrs: %.100q is not an address with a port", remote)
		}
	}
	for name, address := range map[string]string{"advertise_addr": a.AdvertiseAddr, "data_path_addr": a.DataPathAddr} {
		if _, err := netip.ParseAddr(address); err != nil && address != "" {
			return fmt.Errorf("%s: %.100q is not an address", name, address)
		}
	}
	switch a.Availability {
	case "", "active", "pause", "drain":
	default:
		return fmt.Errorf("the availability %.40q is unknown", a.Availability)
	}
	return id("cluster_id", a.ClusterID)
}

// bad makes a *Error of what is wrong with a body.
func bad(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Code: BadRequest, Detail: err.Error()}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// bootID sees that an id has the kernel's form (drivers/char/random.c's
// boot_id, a UUID).
func bootID(s string) error {
	ok := len(s) == 36
	for i := 0; ok && i < len(s); i++ {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			ok = s[i] == '-'
		} else {
			ok = '0' <= s[i] && s[i] <= '9' || 'a' <= s[i] && s[i] <= 'f'
		}
	}
	if !ok {
		return fmt.Errorf("boot_id %.40q is not one of the kernel's", s)
	}
	return nil
}

// id sees that an id could be one of swarmkit's (identity/randomid.go: 25
// characters of base 36).
func id(name, s string) error {
	if len(s) > 64 {
		return fmt.Errorf("%s has %d characters", name, len(s))
	}
	for _, r := range s {
		if !('0' <= r && r <= '9' || 'a' <= r && r <= 'z') {
			return fmt.Errorf("%s %q is not an id", name, s)
		}
	}
	return nil
}

func word(name, s string) error {
	if len(s) > maxWord || strings.ContainsFunc(s, notPrintable) || !utf8.ValidString(s) {
		return fmt.Errorf("%s %.40q is too long, or has what cannot be printed", name, s)
	}
	return nil
}

func notPrintable(r rune) bool { return !unicode.IsPrint(r) }

// tidy makes a text fit to be shown: one line without control characters, and
// not too long.
func tidy(s string) string {
	if len(s) > 4*maxText {
		s = s[:4*maxText]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText-len("…")], "") + "…"
	}
	return s
}
