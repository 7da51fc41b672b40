package workload

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

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
