package page

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// The codes that only the page uses.
const (
	NotHere  enrol.Code = "not-here"    // no actions over plain HTTP
	NoToken  enrol.Code = "token"       // the token is missing, or is another
	Busy     enrol.Code = "busy"        // something is being done with the slot from here
	Failed   enrol.Code = "failed"      // the action did not work
	TooMany  enrol.Code = "too-many"    // wrong tokens, or browsers
	NoAction enrol.Code = "no-action"   // there is no such action
	BadHost  enrol.Code = "wrong-host"  // the request is for another name
	Foreign  enrol.Code = "cross-site"  // the request is another page's
	Ended    enrol.Code = "service-end" // the service is being stopped
)

// maxBody is more than a request to do something needs, which is nothing, in
// bytes.
const maxBody = 1 << 10

// An offer is an action as the page offers it.
type offer struct {
	Name  string
	Label string
	Asks  string // what is said before it is done; "": it is done at once
}

// known are the actions that the page has words for, in its order.
var known = []offer{
	{"on", "Switch on", ""},
	{"off", "Switch off", "The node is asked to shut down, and loses its power. Its services move to others."},
	{"cycle", "Power-cycle", "The node loses its power for a moment, and boots again."},
	{"rebuild", "Rebuild", "The node becomes factory-fresh. What was written on it is gone."},
	{"reset", "Reset", "The node gets a fresh disk at once. What it wrote is gone when it is ready again."},
	{"undo", "Undo", "The node goes back to what it booted before."},
	{"retry", "Try again", ""},
	{"cancel", "Cancel the operation", "What is being done with the slot is broken off."},
}

// offers are the actions in the page's order; those that it has no words for
// come last.
func offers(actions map[string]func(context.Context, int) error) []offer {
	all := []offer{}
	for name := range actions {
		o := offer{Name: name, Label: strings.ToUpper(name[:1]) + name[1:], Asks: "This is done with the slot: " + name + "."}
		if at := slices.IndexFunc(known, func(k offer) bool { return k.Name == name }); at >= 0 {
			o = known[at]
		}
		all = append(all, o)
	}
	place := func(o offer) int {
		if at := slices.Index(known, o); at >= 0 {
			return at
		}
		return len(known)
	}
	slices.SortFunc(all, func(a, b offer) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), strings.Compare(a.Name, b.Name))
	})
	return all
}

// An outcome is what became of an action.
type outcome struct {
	action string
	since  time.Time
	done   bool
	err    error
}

// An ActionAnswer is the answer to POST /actions/p2/cycle.
type ActionAnswer struct {
	State string `json:"state"` // StateDone, StateBegun
}

// How far an action is.
const (
	StateDone  = "done"
	StateBegun = "begun" // it goes on, and how it ends is told with the slot
)

// mayAct says whether a request can do anything where it came from: over TLS, or
// from this machine itself.
func mayAct(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && loopback(local.String()) && loopback(r.RemoteAddr)
}

func loopback(address string) bool {
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// admit sees that a request may do something. Nothing is read of it but its head.
func (s *Service) admit(r *http.Request) *enrol.Error {
	if !mayAct(r) {
		return &enrol.Error{Status: http.StatusForbidden, Code: NotHere, Detail: "nothing is done over plain HTTP: open the page with `hatchery page --on " + s.Node.Hostname + "`, or over HTTPS (`serve: {listen: lan}` in cluster.yaml)"}
	}
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(kind, "Bearer") && s.token.opens(token) {
		return nil
	}
	// Whoever tries out tokens keeps nobody out who has it.
	if token != "" && !s.guesses.Allow() {
		return &enrol.Error{Status: http.StatusTooManyRequests, Code: TooMany, Detail: "too many wrong tokens", RetryAfterS: 5}
	}
	return &enrol.Error{Status: http.StatusUnauthorized, Code: NoToken, Detail: "this takes the operator's token: `hatchery page --token` on the controller shows it"}
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, e *enrol.Error) {
	if e.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="hatchery"`)
	}
	enrol.WriteError(w, e)
}

// empty sees that a request has no body worth the name.
func empty(w http.ResponseWriter, r *http.Request) *enrol.Error {
	_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return &enrol.Error{Status: http.StatusRequestEntityTooLarge, Code: enrol.BadRequest, Detail: fmt.Sprintf("the body has more than %d bytes", maxBody)}
	case err != nil:
		return &enrol.Error{Code: enrol.BadRequest, Detail: "the body did not arrive"}
	}
	return nil
}

// tokenCall says whether a token is the right one.
func (s *Service) tokenCall(w http.ResponseWriter, r *http.Request) {
	refused := s.admit(r)
	if refused == nil {
		refused = empty(w, r)
	}
	if refused != nil {
		refuse(w, refused)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// actionCall does something with a slot.
func (s *Service) actionCall(w http.ResponseWriter, r *http.Request) {
	refused := s.admit(r)
	if refused == nil {
		refused = empty(w, r)
	}
	if refused != nil {
		refuse(w, refused)
		return
	}
	slot, err := clusterctrl.ParseSlot(r.PathValue("slot"))
	if err == nil {
		if _, ok := s.Node.Target(slot); !ok {
			err = fmt.Errorf("%s is not a slot of this cluster", clusterctrl.SlotName(slot))
		}
	}
	if err != nil {
		refuse(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: err.Error()})
		return
	}
	name := r.PathValue("action")
	do := s.Actions[name]
	if do == nil {
		refuse(w, &enrol.Error{Status: http.StatusNotFound, Code: NoAction, Detail: "there is no such action here"})
		return
	}
	ended, refused := s.begin(slot, name, do, r.RemoteAddr)
	if refused != nil {
		refuse(w, refused)
		return
	}
	wait := time.NewTimer(s.Times.Answer)
	defer wait.Stop()
	select {
	case err := <-ended:
		if err != nil {
			refuse(w, &enrol.Error{Status: http.StatusConflict, Code: Failed, Detail: said(err.Error())})
			return
		}
		enrol.WriteJSON(w, http.StatusOK, ActionAnswer{StateDone})
	case <-wait.C:
		enrol.WriteJSON(w, http.StatusAccepted, ActionAnswer{StateBegun})
	case <-r.Context().Done():
	}
}

// begin begins an action. It goes on whether or not anybody waits, till it is
// done or the service ends. One slot has one at a time.
func (s *Service) begin(slot int, name string, do func(context.Context, int) error, from string) (<-chan error, *enrol.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil || s.ctx.Err() != nil {
		return nil, &enrol.Error{Status: http.StatusServiceUnavailable, Code: Ended, Detail: "the service is being stopped"}
	}
	if o := s.asked[slot]; o != nil && !o.done {
		return nil, &enrol.Error{Status: http.StatusConflict, Code: Busy, Detail: fmt.Sprintf("%s is at work: %s", clusterctrl.SlotName(slot), o.action)}
	}
	o := &outcome{action: name, since: time.Now()}
	s.asked[slot] = o
	ctx, ended := s.ctx, make(chan error, 1)
	s.Log.Info("asked from the page", "slot", clusterctrl.SlotName(slot), "action", name, "from", from)
	s.working.Go(func() {
		err := do(ctx, slot)
		s.mu.Lock()
		o.done, o.err, o.since = true, err, time.Now()
		s.mu.Unlock()
		if err != nil {
			s.Log.Warn("what was asked from the page failed", "slot", clusterctrl.SlotName(slot), "action", name, "error", err)
		}
		ended <- err
		s.soon()
	})
	s.soon()
	return ended, nil
}
