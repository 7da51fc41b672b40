package operation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hatchery/controller/operation"
	"hatchery/internal/enrol"
)

// A caller calls a handler over HTTP, as the client of the socket does. The first
// broken answers of those that are copied end in the middle.
type caller struct {
	*httptest.Server
	broken atomic.Int32
}

func newCaller(t *testing.T, h http.Handler) *caller {
	c := &caller{Server: httptest.NewServer(h)}
	t.Cleanup(c.Close)
	return c
}

func (c *caller) do(ctx context.Context, method, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.URL+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.Client().Do(r)
	if err != nil || answer.StatusCode/100 == 2 {
		return answer, err
	}
	defer answer.Body.Close()
	refused := &enrol.Error{Status: answer.StatusCode}
	if err := json.NewDecoder(answer.Body).Decode(refused); err != nil {
		return nil, err
	}
	return nil, refused
}

func (c *caller) Call(ctx context.Context, method, path string, v any) error {
	r, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return json.NewDecoder(r.Body).Decode(v)
}

func (c *caller) Copy(ctx context.Context, path string, w io.Writer) error {
	r, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if c.broken.Add(-1) >= 0 {
		return errors.New("the connection broke")
	}
	_, err = io.Copy(w, r.Body)
	return err
}

func TestCalls(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.next = map[int]string{1: "old", 2: "old"}
	w.hold, w.held = make(chan struct{}), make(chan int, 4)
	server := newCaller(t, w.run().Calls())
	client := operation.Client{Caller: server}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code := func(err error) enrol.Code {
		var refused *enrol.Error
		if errors.As(err, &refused) {
			return refused.Code
		}
		return enrol.Code(fmt.Sprint(err))
	}
	plans, err := client.Plans(ctx, operation.Request{Kind: operation.Rebuild, All: true})
	if err != nil || len(plans) != 2 || plans[1].Name != "p2" {
		t.Fatalf("%+v, %v", plans, err)
	}
	if _, err = client.Plans(ctx, operation.Request{Kind: operation.Upgrade}); code(err) != operation.CodeNothing {
		t.Error(err)
	}
	if _, err := client.Start(ctx, operation.Request{Kind: operation.Upgrade}); code(err) != operation.CodeNothing {
		t.Error(err)
	}
	op, err := client.Start(ctx, operation.Request{Kind: operation.Rebuild, Slots: []int{2}, By: "sam"})
	if err != nil {
		t.Fatal(err)
	}
	<-w.held
	if _, err := client.Start(ctx, operation.Request{Kind: operation.Rebuild, Slots: []int{2}}); code(err) != operation.CodeBusy || !strings.Contains(err.Error(), "by sam") {
		t.Error(err)
	}
	if _, err := client.Start(ctx, operation.Request{Kind: operation.Rebuild, Slots: []int{0}}); code(err) != enrol.UnknownSlot {
		t.Error(err)
	}
	if _, err := client.Start(ctx, operation.Request{Kind: operation.Undo, Slots: []int{1}}); code(err) != operation.CodeRefused {
		t.Error(err)
	}
	if _, err := client.Get(ctx, "rebuild-9"); code(err) != operation.CodeUnknown {
		t.Error(err)
	}
	if _, err := client.Cancel(ctx, "a/../b"); code(err) != operation.CodeUnknown {
		t.Error(err)
	}
	if _, err := client.Follow(ctx, "rebuild-9", func(*operation.Operation) {}); code(err) != operation.CodeUnknown {
		t.Error(err)
	}
	// Who follows sees it go on, over a service that goes away for a moment.
	server.broken.Store(1)
	var steps []string
	over, err := client.Follow(ctx, op.ID, func(op *operation.Operation) {
		step := op.Slots[0].Step
		if len(steps) == 0 {
			close(w.hold)
		}
		if !slices.Contains(steps, step) {
			steps = append(steps, step)
		}
	})
	if err != nil || over.State != operation.Done || steps[0] != operation.StepRenew || steps[len(steps)-1] != operation.StepDone {
		t.Errorf("%+v, %v: %v", over, err, steps)
	}
	if got, err := client.Get(ctx, op.ID); err != nil || !reflect.DeepEqual(got, over) {
		t.Errorf("%+v, %v", got, err)
	}
	if list, err := client.List(ctx); err != nil || len(list) != 1 || list[0].Request.By != "sam" {
		t.Errorf("%+v, %v", list, err)
	}
	if op, err = client.Cancel(ctx, op.ID); err != nil || op.State != operation.Done {
		t.Errorf("%+v, %v", op, err)
	}
	// Whoever has enough of it leaves it.
	leaving, leave := context.WithCancel(ctx)
	leave()
	if _, err := client.Follow(leaving, op.ID, func(*operation.Operation) {}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRequest(t *testing.T) {
	for _, r := range []operation.Request{
		{Kind: operation.Rebuild, Slots: []int{1, 252}, Now: true, DrainTimeout: 90 * time.Second, MaxUnavailable: 3, Keep: true, By: "sam & daniel"},
		{Kind: operation.Upgrade, All: true},
		{Kind: operation.Undo, Continue: true, Wait: true, Anew: []string{"now", "keep"}},
	} {
		got, err := operation.ParseRequest(r.Query())
		if err != nil || !reflect.DeepEqual(*got, r) {
			t.Errorf("%+v, %v, want %+v", got, err, r)
		}
	}
	for query, want := range map[string]string{
		"":                                      "is no operation",
		"kind=melt":                             "is no operation",
		"kind=rebuild&slot=p0":                  "is not a slot",
		"kind=rebuild&all=perhaps":              "all is true or false",
		"kind=rebuild&drain_timeout=-5m":        "drain_timeout is a time",
		"kind=rebuild&drain_timeout=5":          "drain_timeout is a time",
		"kind=rebuild&max_unavailable=0":        "is a number of slots",
		"kind=rebuild&max_unavailable=99999999": "is a number of slots",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		var refused *enrol.Error
		if _, err := operation.ParseRequest(q); !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add("kind=rebuild&slot=p1&slot=p2&now=true&drain_timeout=5m&max_unavailable=2&by=sam")
	f.Add("kind=undo&continue=1")
	f.Add("kind=upgrade&slot=controller")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		r, err := operation.ParseRequest(q)
		if err != nil || slices.Contains(r.Slots, 0) {
			return
		}
		again, err := operation.ParseRequest(r.Query())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v, %v, want %+v", again, err, r)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"last":2,"operations":[{"id":"rebuild-1","request":{"kind":"rebuild","slots":[1]},"state":"running","slots":[{"slot":1,"step":"drain"}]}]}`))
	f.Add([]byte(`{"version":1,"operations":[null]}`))
	f.Add([]byte(`{"version":1,"last":9,"operations":[{"id":"undo-9","request":{"kind":"undo","slots":[2],"now":true,"drain_timeout":5,"max_unavailable":1,"by":"sam"},"state":"cancelling","began":"2026-11-22T10:00:00Z","healthy":{"web":"x"},
		"slots":[{"slot":2,"name":"p2","step":"undo","since":"2026-11-22T10:00:00Z","notes":["n"],"before":{"node_id":"a","availability":"pause","labels":{"k":"v"}},"boot":"b","had":"new","to":"old","back":"old","intact":true,"saved":true,"undone":true,"from":"new","left":true}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := operation.ParseRecord(data)
		if err != nil {
			return
		}
		// What is read can be shown, and written and read again, and is the same then.
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := operation.ParseRecord(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		same, err := json.Marshal(again)
		if err != nil || !bytes.Equal(same, out) {
			t.Errorf("%v\n%s\nis then\n%s", err, out, same)
		}
	})
}
