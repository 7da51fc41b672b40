package power

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"hatchery/controller/hat"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// Prefix is where the calls are on the service's socket.
const Prefix = "/power/"

// Conflict is the code of a call that cannot be done as things stand.
const Conflict enrol.Code = "conflict"

// The query of a call that says how: ?now&dry-run&force.
const (
	queryNow   = "now"
	queryDry   = "dry-run"
	queryForce = "force"
)

// Calls answers the command line, under Prefix:
//
//	GET  …             the View
//	POST …slots/p2/X   does X: on, off, cycle; an Outcome
//	POST …hub/X        switches the hub, …alert/X the LED, on or off; an Outcome
//
// With ?now a node that runs is not asked to shut down; with ?dry-run nothing is
// switched; with ?force the power of a slot is cut that something is at work on.
func (s *Service) Calls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"{$}", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.View(r.Context())
		answer(w, v, err)
	})
	mux.HandleFunc("POST "+Prefix+"slots/{slot}/{what}", func(w http.ResponseWriter, r *http.Request) {
		n, err := clusterctrl.ParseSlot(r.PathValue("slot"))
		if err != nil {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: err.Error()})
			return
		}
		what := r.PathValue("what")
		if what != DoOn && what != DoOff && what != DoCycle {
			noSuch(w)
			return
		}
		how, ok := howOf(w, r)
		if !ok {
			return
		}
		// What is begun is brought to its end, whether or not anybody waits.
		outcome, err := s.Do(context.WithoutCancel(r.Context()), n, what, how)
		answer(w, outcome, err)
	})
	for _, part := range []string{Hub, Alert} {
		mux.HandleFunc("POST "+Prefix+part+"/{state}", func(w http.ResponseWriter, r *http.Request) {
			state := r.PathValue("state")
			if state != DoOn && state != DoOff {
				noSuch(w)
				return
			}
			how, ok := howOf(w, r)
			if !ok {
				return
			}
			outcome, err := s.Turn(context.WithoutCancel(r.Context()), part, state == DoOn, how)
			answer(w, outcome, err)
		})
	}
	return mux
}

// howOf reads the query, and refuses one that it does not understand: power that was
// cut by mistake is cut.
func howOf(w http.ResponseWriter, r *http.Request) (how How, ok bool) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	for name, values := range query {
		flag := map[string]*bool{queryNow: &how.Now, queryDry: &how.DryRun, queryForce: &how.Force}[name]
		if flag == nil || len(values) != 1 {
			err = errors.Join(err, errors.New(name))
			continue
		}
		if *flag = true; values[0] != "" {
			var wrong error
			*flag, wrong = strconv.ParseBool(values[0])
			err = errors.Join(err, wrong)
		}
	}
	if err != nil {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusBadRequest, Code: enrol.BadRequest, Detail: "the query is of " + queryNow + ", " + queryDry + " and " + queryForce})
	}
	return how, err == nil
}

func noSuch(w http.ResponseWriter) {
	enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.BadRequest, Detail: "there is no such action"})
}

func answer[T any](w http.ResponseWriter, v *T, err error) {
	switch {
	case err == nil:
		enrol.WriteJSON(w, http.StatusOK, v)
	case errors.Is(err, ErrUnknownSlot):
		enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: err.Error()})
	case errors.Is(err, hat.ErrNoHAT), errors.Is(err, hat.ErrNoSlot), errors.Is(err, hat.ErrNotSwitchable), errors.Is(err, hat.ErrNotKept), errors.Is(err, ErrAtWork):
		enrol.WriteError(w, &enrol.Error{Status: http.StatusConflict, Code: Conflict, Detail: err.Error()})
	default:
		enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: Conflict, Detail: err.Error()})
	}
}

// A Caller makes calls on the service's socket; *controller.Client is one.
type Caller interface {
	// Call makes a call and reads its answer into v, unless v is nil.
	Call(ctx context.Context, method, path string, v any) error
}

// A Client is the command line's end of the calls. It does what a [Service]
// does.
type Client struct{ Caller Caller }

// View is what is known of the HAT and its slots.
func (c Client) View(ctx context.Context) (*View, error) {
	v := new(View)
	return v, c.Caller.Call(ctx, http.MethodGet, Prefix, v)
}

// Do does something with a slot: [DoOn], [DoOff], [DoCycle].
func (c Client) Do(ctx context.Context, n int, what string, how How) (*Outcome, error) {
	v := new(Outcome)
	return v, c.Caller.Call(ctx, http.MethodPost, Prefix+"slots/"+clusterctrl.SlotName(n)+"/"+what+how.query(), v)
}

// Turn switches a part of the HAT: [Hub], [Alert].
func (c Client) Turn(ctx context.Context, part string, on bool, how How) (*Outcome, error) {
	state := DoOff
	if on {
		state = DoOn
	}
	v := new(Outcome)
	return v, c.Caller.Call(ctx, http.MethodPost, Prefix+part+"/"+state+how.query(), v)
}

func (h How) query() string {
	var flags []string
	for _, flag := range []struct {
		set  bool
		name string
	}{{h.Now, queryNow}, {h.DryRun, queryDry}, {h.Force, queryForce}} {
		if flag.set {
			flags = append(flags, flag.name)
		}
	}
	if len(flags) == 0 {
		return ""
	}
	return "?" + strings.Join(flags, "&")
}
