package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hatchery/internal/declared"
	"hatchery/internal/enrol"
)

// Prefix is where the calls are on the service's socket.
const Prefix = "/workloads/"

// The calls, below Prefix.
const (
	pathDeclared = "declared"
	pathPlan     = "plan"
	pathApply    = "apply"
	pathSecrets  = "secrets/"
	pathConfigs  = "configs/"
)

// The codes of calls that are refused.
const (
	CodeWorkload enrol.Code = "bad-workload"     // what is declared, or brought, is wrong
	CodeNoObject enrol.Code = "unknown-workload" // nothing of that name is declared
	CodeNotSaved enrol.Code = "workload-failed"
)

// tellEvery is the least time between two lines for who follows.
const tellEvery = 200 * time.Millisecond

// Calls answers the command line, under Prefix:
//
//	GET  …                  where it stands; with ?follow a line of JSON at each change
//	PUT  …declared          says what is to run from now on (package declared), and applies it
//	POST …plan              what applying would do: of what is sent, or of what is declared
//	POST …apply             applies what is declared, now
//	PUT  …secrets/{name}    brings the content of a secret
//	PUT  …configs/{name}    brings the content of a config
//
// The socket does not read their bodies first (controller.Options.Bodies).
func (s *Service) Calls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"{$}", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("follow") {
			s.follow(w, r)
			return
		}
		enrol.WriteJSON(w, http.StatusOK, s.Status(r.Context()))
	})
	mux.HandleFunc("PUT "+Prefix+pathDeclared, func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err == nil {
			err = s.declare(data)
		}
		s.answer(w, r, http.StatusOK, err)
	})
	mux.HandleFunc("POST "+Prefix+pathPlan, func(w http.ResponseWriter, r *http.Request) {
		var what *declared.Workloads
		request, err := ParseRequest(r.URL.Query())
		var data []byte
		if err == nil {
			data, err = io.ReadAll(r.Body)
		}
		if err == nil && len(data) > 0 {
			if what, err = declared.Parse(data); err != nil {
				err = fmt.Errorf("%w: %w", ErrWrong, err)
			}
		}
		var plan *Plan
		if err == nil {
			plan, err = s.Plan(r.Context(), what, request)
		}
		if err != nil {
			refuse(w, err)
			return
		}
		enrol.WriteJSON(w, http.StatusOK, plan)
	})
	mux.HandleFunc("POST "+Prefix+pathApply, func(w http.ResponseWriter, r *http.Request) {
		request, err := ParseRequest(r.URL.Query())
		if err == nil {
			err = s.Apply(request)
		}
		s.answer(w, r, http.StatusAccepted, err)
	})
	for part, kind := range map[string]string{pathSecrets: KindSecret, pathConfigs: KindConfig} {
		mux.HandleFunc("PUT "+Prefix+part+"{name}", func(w http.ResponseWriter, r *http.Request) {
			content, err := io.ReadAll(r.Body)
			if err == nil {
				err = s.Push(kind, r.PathValue("name"), content)
			}
			s.answer(w, r, http.StatusOK, err)
		})
	}
	return bounded(mux)
}

// bounded has a call's body read before it is answered, as much as it may have: the
// socket reads none of this prefix.
func bounded(calls http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			calls.ServeHTTP(w, r)
			return
		}
		most, path := int64(4<<10), strings.TrimPrefix(r.URL.Path, Prefix)
		switch {
		case path == pathDeclared || path == pathPlan:
			most = declared.MaxSize
		case strings.HasPrefix(path, pathSecrets) || strings.HasPrefix(path, pathConfigs):
			most = declared.MaxSecret
		}
		data, err := body(w, r, most)
		if err != nil {
			w.Header().Set("Connection", "close")
			refuse(w, err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(data))
		calls.ServeHTTP(w, r)
	})
}

// body reads what a call brings.
func body(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTime))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &enrol.Error{Status: http.StatusRequestEntityTooLarge, Code: enrol.BadRequest, Detail: fmt.Sprintf("it has more than %d bytes", most)}
	case err != nil:
		return nil, &enrol.Error{Code: enrol.BadRequest, Detail: "it did not arrive whole"}
	}
	_ = control.SetReadDeadline(time.Time{})
	return data, nil
}

// bodyTime is how long a body may take.
const bodyTime = time.Minute

func (s *Service) declare(data []byte) error {
	w, err := declared.Parse(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrong, err)
	}
	return s.Declare(w)
}

// answer gives where it stands, or an error.
func (s *Service) answer(w http.ResponseWriter, r *http.Request, status int, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	enrol.WriteJSON(w, status, s.Status(r.Context()))
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	answer := &enrol.Error{Status: http.StatusServiceUnavailable, Code: CodeNotSaved, Detail: err.Error()}
	switch {
	case errors.As(err, &answer):
	case errors.Is(err, ErrUnknown):
		answer.Status, answer.Code = http.StatusNotFound, CodeNoObject
	case errors.Is(err, ErrWrong):
		answer.Status, answer.Code = http.StatusUnprocessableEntity, CodeWorkload
	}
	enrol.WriteError(w, answer)
}

// follow gives where it stands, at each change.
func (s *Service) follow(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	var last []byte
	for {
		changed := s.changes()
		line, err := json.Marshal(s.Status(r.Context()))
		if err != nil {
			return
		}
		if !bytes.Equal(line, last) {
			if _, err := w.Write(append(line, '\n')); err != nil || out.Flush() != nil {
				return
			}
			last = line
		}
		pause := time.NewTimer(followEvery)
		select {
		case <-r.Context().Done():
		case <-changed:
		case <-pause.C: // what services have changes without us
		}
		pause.Stop()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(tellEvery):
		}
	}
}

// followEvery is how often who follows is told how many tasks run.
const followEvery = 5 * time.Second

// Query is a request as a call has it.
func (r Request) Query() url.Values {
	q := url.Values{}
	if r.Prune {
		q.Set("prune", "true")
	}
	if r.NoPrune {
		q.Set("no_prune", "true")
	}
	return q
}

// ParseRequest reads a request as a call has it. The error is a *enrol.Error.
func ParseRequest(q url.Values) (Request, error) {
	var r Request
	for name, on := range map[string]*bool{"prune": &r.Prune, "no_prune": &r.NoPrune} {
		if text := q.Get(name); text != "" {
			value, err := strconv.ParseBool(text)
			if err != nil {
				return r, &enrol.Error{Code: enrol.BadRequest, Detail: fmt.Sprintf("%s is true or false, not %.40q", name, text)}
			}
			*on = value
		}
	}
	return r, nil
}

// A Caller makes calls on the service's socket; *controller.Client is one.
type Caller interface {
	// Call makes a call and reads its answer into v, unless v is nil.
	Call(ctx context.Context, method, path string, v any) error
	// Send makes a call that has a body.
	Send(ctx context.Context, method, path string, body io.Reader, v any) error
	// Copy makes a call and copies its answer.
	Copy(ctx context.Context, path string, w io.Writer) error
}

// A Client is the command line's end of the calls. What the service refuses is an
// *enrol.Error.
type Client struct{ Caller Caller }

// Status is where what is declared stands.
func (c Client) Status(ctx context.Context) (*Status, error) {
	s := new(Status)
	return s, c.Caller.Call(ctx, http.MethodGet, Prefix, s)
}

// Declare says what is to run from now on. It is applied as soon as what it waits for
// is there. The controller keeps it until a new image says otherwise.
func (c Client) Declare(ctx context.Context, w *declared.Workloads) (*Status, error) {
	data, err := w.Marshal()
	if err != nil {
		return nil, err
	}
	s := new(Status)
	return s, c.Caller.Send(ctx, http.MethodPut, Prefix+pathDeclared, bytes.NewReader(data), s)
}

// Plan says what applying would do: what w declares, or with nil what the controller
// has.
func (c Client) Plan(ctx context.Context, w *declared.Workloads, r Request) (*Plan, error) {
	p, path := new(Plan), Prefix+pathPlan+"?"+r.Query().Encode()
	if w == nil {
		return p, c.Caller.Call(ctx, http.MethodPost, path, p)
	}
	data, err := w.Marshal()
	if err != nil {
		return nil, err
	}
	return p, c.Caller.Send(ctx, http.MethodPost, path, bytes.NewReader(data), p)
}

// Apply applies what the controller has, now; Status.Asked of the answer is what
// Status.Done comes to when it is over.
func (c Client) Apply(ctx context.Context, r Request) (*Status, error) {
	s := new(Status)
	return s, c.Caller.Call(ctx, http.MethodPost, Prefix+pathApply+"?"+r.Query().Encode(), s)
}

// PushSecret brings the content of a secret that is declared.
func (c Client) PushSecret(ctx context.Context, name string, content []byte) (*Status, error) {
	s := new(Status)
	return s, c.Caller.Send(ctx, http.MethodPut, Prefix+pathSecrets+url.PathEscape(name), bytes.NewReader(content), s)
}

// PushConfig brings the content of a config that is declared.
func (c Client) PushConfig(ctx context.Context, name string, content []byte) (*Status, error) {
	s := new(Status)
	return s, c.Caller.Send(ctx, http.MethodPut, Prefix+pathConfigs+url.PathEscape(name), bytes.NewReader(content), s)
}
