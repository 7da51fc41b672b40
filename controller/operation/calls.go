package operation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// Prefix is where the calls are on the service's socket.
const Prefix = "/operations/"

// The codes of calls that are refused.
const (
	CodeBusy    enrol.Code = "busy"
	CodeRefused enrol.Code = "refused"
	CodeNothing enrol.Code = "nothing-to-do"
	CodeUnknown enrol.Code = "unknown-operation"
	CodeFailed  enrol.Code = "operation-failed"
)

// pathPlan is where plans are asked for, below Prefix; no operation has that ID.
const pathPlan = "plan"

// tellEvery is the least time between two lines for who follows.
const tellEvery = 200 * time.Millisecond

// Calls answers the command line, under Prefix. What is wanted stands in the
// query, as [Request.Query] has it:
//
//	POST   …           begins an operation, and gives it
//	POST   …plan       gives the plans of what that would be
//	GET    …           the operations that are known, the newest first
//	GET    …{id}       one of them; with ?follow a line of JSON at each change, until it is over
//	DELETE …{id}       has it end where it may
func (s *Service) Calls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Prefix+"{$}", func(w http.ResponseWriter, r *http.Request) {
		request, err := ParseRequest(r.URL.Query())
		if err != nil {
			refuse(w, err)
			return
		}
		op, err := s.Start(r.Context(), *request)
		if err != nil {
			refuse(w, err)
			return
		}
		enrol.WriteJSON(w, http.StatusCreated, op)
	})
	mux.HandleFunc("POST "+Prefix+pathPlan, func(w http.ResponseWriter, r *http.Request) {
		request, err := ParseRequest(r.URL.Query())
		var plans []Plan
		if err == nil {
			plans, err = s.Plans(r.Context(), *request)
		}
		if err != nil {
			refuse(w, err)
			return
		}
		enrol.WriteJSON(w, http.StatusOK, plans)
	})
	mux.HandleFunc("GET "+Prefix+"{$}", func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, s.List())
	})
	mux.HandleFunc("GET "+Prefix+"{id}", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		op, ok := s.Get(id)
		switch {
		case !ok:
			refuse(w, fmt.Errorf("%w: %.40q", ErrUnknown, id))
		case r.URL.Query().Has("follow"):
			s.follow(w, r, id)
		default:
			enrol.WriteJSON(w, http.StatusOK, op)
		}
	})
	mux.HandleFunc("DELETE "+Prefix+"{id}", func(w http.ResponseWriter, r *http.Request) {
		op, err := s.Cancel(r.PathValue("id"))
		if err != nil {
			refuse(w, err)
			return
		}
		enrol.WriteJSON(w, http.StatusOK, op)
	})
	return mux
}

// follow gives an operation as it goes on.
func (s *Service) follow(w http.ResponseWriter, r *http.Request, id string) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	var last []byte
	for {
		changed := s.changes()
		op, ok := s.Get(id)
		if !ok {
			return
		}
		line, err := json.Marshal(op)
		if err != nil {
			return
		}
		if !bytes.Equal(line, last) {
			if _, err := w.Write(append(line, '\n')); err != nil || out.Flush() != nil {
				return
			}
			last = line
		}
		if op.Over() {
			return
		}
		for _, wait := range []<-chan struct{}{changed, nil} {
			var pause <-chan time.Time
			if wait == nil {
				pause = time.After(tellEvery)
			}
			select {
			case <-r.Context().Done():
				return
			case <-wait:
			case <-pause:
			}
		}
	}
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	var refused *RefusedError
	answer := &enrol.Error{Status: http.StatusServiceUnavailable, Code: CodeFailed, Detail: err.Error()}
	switch {
	case errors.As(err, &answer):
	case errors.Is(err, ErrBusy):
		answer.Status, answer.Code = http.StatusConflict, CodeBusy
	case errors.As(err, &refused):
		answer.Status, answer.Code = http.StatusConflict, CodeRefused
	case errors.Is(err, ErrNothing):
		answer.Status, answer.Code = http.StatusConflict, CodeNothing
	case errors.Is(err, ErrUnknown):
		answer.Status, answer.Code = http.StatusNotFound, CodeUnknown
	}
	enrol.WriteError(w, answer)
}

// Query is a request as a call has it.
func (r Request) Query() url.Values {
	q := url.Values{"kind": {string(r.Kind)}}
	for _, slot := range r.Slots {
		q.Add("slot", clusterctrl.SlotName(slot))
	}
	for name, on := range map[string]bool{"all": r.All, "continue": r.Continue, "now": r.Now, "wait": r.Wait, "keep": r.Keep} {
		if on {
			q.Set(name, "true")
		}
	}
	if r.DrainTimeout > 0 {
		q.Set("drain_timeout", r.DrainTimeout.String())
	}
	if r.MaxUnavailable > 0 {
		q.Set("max_unavailable", strconv.Itoa(r.MaxUnavailable))
	}
	for _, name := range r.Anew {
		q.Add("anew", name)
	}
	if r.By != "" {
		q.Set("by", r.By)
	}
	return q
}

// ParseRequest reads a request as a call has it. The error is a *enrol.Error.
func ParseRequest(q url.Values) (*Request, error) {
	bad := func(format string, args ...any) (*Request, error) {
		return nil, &enrol.Error{Code: enrol.BadRequest, Detail: fmt.Sprintf(format, args...)}
	}
	r := &Request{Kind: Kind(q.Get("kind")), By: q.Get("by"), Anew: q["anew"]}
	switch r.Kind {
	case Rebuild, Upgrade, Undo:
	default:
		return bad("%.40q is no operation", r.Kind)
	}
	for _, name := range q["slot"] {
		slot, err := clusterctrl.ParseSlot(name)
		if name == "controller" {
			slot, err = 0, nil // it is told why not
		}
		if err != nil {
			return nil, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: fmt.Sprintf("%.40q is not a slot of this cluster", name)}
		}
		r.Slots = append(r.Slots, slot)
	}
	for name, on := range map[string]*bool{"all": &r.All, "continue": &r.Continue, "now": &r.Now, "wait": &r.Wait, "keep": &r.Keep} {
		if text := q.Get(name); text != "" {
			value, err := strconv.ParseBool(text)
			if err != nil {
				return bad("%s is true or false, not %.40q", name, text)
			}
			*on = value
		}
	}
	if text := q.Get("drain_timeout"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return bad("drain_timeout is a time such as 5m, not %.40q", text)
		}
		r.DrainTimeout = d
	}
	if text := q.Get("max_unavailable"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > clusterctrl.MaxSlot {
			return bad("max_unavailable is a number of slots, not %.40q", text)
		}
		r.MaxUnavailable = n
	}
	return r, nil
}

// A Caller makes calls on the service's socket; *controller.Client is one.
type Caller interface {
	// Call makes a call and reads its answer into v, unless v is nil.
	Call(ctx context.Context, method, path string, v any) error
	// Copy makes a call and copies its answer.
	Copy(ctx context.Context, path string, w io.Writer) error
}

// A Client is the command line's end of the calls. What the service refuses is an
// *enrol.Error.
type Client struct{ Caller Caller }

// Start begins an operation.
func (c Client) Start(ctx context.Context, r Request) (*Operation, error) {
	op := new(Operation)
	return op, c.Caller.Call(ctx, http.MethodPost, Prefix+"?"+r.Query().Encode(), op)
}

// Plans says what an operation would do.
func (c Client) Plans(ctx context.Context, r Request) ([]Plan, error) {
	var plans []Plan
	return plans, c.Caller.Call(ctx, http.MethodPost, Prefix+pathPlan+"?"+r.Query().Encode(), &plans)
}

// List gives the operations that are known, the newest first.
func (c Client) List(ctx context.Context) ([]*Operation, error) {
	var list []*Operation
	return list, c.Caller.Call(ctx, http.MethodGet, Prefix, &list)
}

// Get gives an operation.
func (c Client) Get(ctx context.Context, id string) (*Operation, error) {
	op := new(Operation)
	return op, c.Caller.Call(ctx, http.MethodGet, Prefix+url.PathEscape(id), op)
}

// Cancel has an operation end where it may.
func (c Client) Cancel(ctx context.Context, id string) (*Operation, error) {
	op := new(Operation)
	return op, c.Caller.Call(ctx, http.MethodDelete, Prefix+url.PathEscape(id), op)
}

// awhile is how long a service that went away is waited for: it is started again,
// and goes on.
const awhile = 2 * time.Minute

// Follow tells f of an operation as it goes on, until it is over, and gives it
// then. A service that is started again meanwhile is waited for.
func (c Client) Follow(ctx context.Context, id string, f func(*Operation)) (*Operation, error) {
	var gone time.Time
	for {
		var last *Operation
		err := c.stream(ctx, id, func(op *Operation) {
			last, gone = op, time.Time{}
			f(op)
		})
		var refused *enrol.Error
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case last != nil && last.Over():
			return last, nil
		case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
			return nil, err
		case gone.IsZero():
			gone = time.Now()
		case time.Since(gone) >= awhile:
			if err == nil {
				err = errors.New("the service ends its answers")
			}
			return nil, fmt.Errorf("%s goes on when there is a service again: %w", id, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// maxLine bounds what is said of an operation at a time, in bytes.
const maxLine = 4 << 20

// stream makes one call that follows.
func (c Client) stream(ctx context.Context, id string, f func(*Operation)) error {
	out, in := io.Pipe()
	go func() { in.CloseWithError(c.Caller.Copy(ctx, Prefix+url.PathEscape(id)+"?follow", in)) }()
	defer out.Close()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		op := new(Operation)
		if err := json.Unmarshal(lines.Bytes(), op); err != nil {
			return fmt.Errorf("the service's answer cannot be read: %w (is it of another version than this program?)", err)
		}
		f(op)
	}
	return lines.Err()
}
