package workload_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hatchery/controller"
	"hatchery/controller/workload"
	"hatchery/internal/declared"
	"hatchery/internal/enrol"
)

var _ workload.Caller = (*controller.Client)(nil)

// direct calls the handlers, as the socket does.
type direct struct{ calls http.Handler }

func (d direct) Call(ctx context.Context, method, path string, v any) error {
	return d.Send(ctx, method, path, nil, v)
}

func (d direct) Send(ctx context.Context, method, path string, body io.Reader, v any) error {
	w := httptest.NewRecorder()
	d.calls.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, body))
	if w.Code/100 == 2 {
		return json.Unmarshal(w.Body.Bytes(), v)
	}
	refused := &enrol.Error{Status: w.Code}
	if err := json.Unmarshal(w.Body.Bytes(), refused); err != nil {
		return err
	}
	return refused
}

func (d direct) Copy(context.Context, string, io.Writer) error { return errors.ErrUnsupported }

// TestClient has the command line's end talk with the service's.
func TestClient(t *testing.T) {
	p := newPlayed(t)
	s, err := workload.New(options(t, p))
	if err != nil {
		t.Fatal(err)
	}
	c, ctx := workload.Client{Caller: direct{s.Calls()}}, t.Context()
	refused := func(what string, err error, code enrol.Code) {
		t.Helper()
		var e *enrol.Error
		if !errors.As(err, &e) || e.Code != code || e.Detail == "" {
			t.Errorf("%s: %v, and not %s", what, err, code)
		}
	}
	if v, err := c.Status(ctx); err != nil || v.State != workload.StateNone {
		t.Errorf("nothing is declared: %+v, %v", v, err)
	}
	if plan, err := c.Plan(ctx, nil, workload.Request{}); err != nil || len(plan.Steps) != 0 {
		t.Errorf("nothing is declared: %+v, %v", plan, err)
	}
	_, err = c.PushSecret(ctx, "a", []byte("x"))
	refused("a secret that nobody declares", err, workload.CodeNoObject)
	w := declared.New(declared.WaitForNodes, declared.GuardOff)
	w.Secrets, w.Configs = []declared.Secret{{Name: "a", Pushed: true}}, []declared.Config{{Name: "site", Pushed: true}, {Name: "built", Content: []byte("x")}}
	w.Add(load(t, "s", map[string]string{"s.yml": "services: {a: {image: \"x:1\", secrets: [a], configs: [site]}}\nsecrets: {a: {external: true}}\nconfigs: {site: {external: true}}\n"}))
	plan, err := c.Plan(ctx, w, workload.Request{})
	if err != nil || plan.Blocked() || !strings.Contains(plan.Waiting, "hatchery secrets push a") || len(plan.Steps) != 3 {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
	if len(p.changes) != 0 {
		t.Errorf("a plan has done %q", p.changes)
	}
	v, err := c.Declare(ctx, w)
	if err != nil || v.Declared != w.Digest() || v.Asked != v.Done+1 {
		t.Errorf("declared: %+v, %v", v, err)
	}
	_, err = c.PushSecret(ctx, "a", nil)
	refused("an empty secret", err, workload.CodeWorkload)
	_, err = c.PushConfig(ctx, "built", []byte("x"))
	refused("a config that is not pushed", err, workload.CodeNoObject)
	if _, err := c.PushSecret(ctx, "a", []byte("the secret")); err != nil {
		t.Error(err)
	}
	if _, err := c.PushConfig(ctx, "site", []byte("a site")); err != nil {
		t.Error(err)
	}
	if err := s.Round(ctx); err != nil {
		t.Fatal(err)
	}
	v, err = c.Apply(ctx, workload.Request{NoPrune: true})
	if err != nil || v.Asked != v.Done+1 {
		t.Errorf("asked: %+v, %v", v, err)
	}
	asked, done := v.Asked, len(p.changes)
	if err := s.Round(ctx); err != nil || len(p.changes) != done {
		t.Errorf("applied again it has done %q, %v", p.changes[done:], err)
	}
	if v, err = c.Status(ctx); err != nil || v.Done != asked || v.State != workload.StateApplied || len(v.Stacks) != 1 || len(v.Stacks[0].Services) != 1 {
		t.Errorf("it is %+v, %v", v, err)
	}
	text, err := json.Marshal([]any{v, plan})
	if err != nil || strings.Contains(string(text), "the secret\"") {
		t.Errorf("it tells %s, %v", text, err)
	}
	if _, err := workload.ParseRequest(workload.Request{Prune: true, NoPrune: true}.Query()); err != nil {
		t.Error(err)
	}
}
