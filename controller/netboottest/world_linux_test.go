package netboottest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"testing"
)

// The world is what stays where the controller's processes are killed: the
// slots' power, and the guests. The netboot service's process calls it by a
// socket.
type world struct {
	power func(slot int, on bool) error
	is    func(slot int) bool
	boot  func(slot int, dir string) error
}

func (w world) serve(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(do func(slot int, form url.Values) (any, error)) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			slot, err := strconv.Atoi(r.FormValue("slot"))
			var v any
			if err == nil {
				v, err = do(slot, r.Form)
			}
			if err != nil {
				http.Error(rw, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(rw).Encode(v) // who asked may be dead
		}
	}
	mux.HandleFunc("/on", answer(func(slot int, _ url.Values) (any, error) { return nil, w.power(slot, true) }))
	mux.HandleFunc("/off", answer(func(slot int, _ url.Values) (any, error) { return nil, w.power(slot, false) }))
	mux.HandleFunc("/powered", answer(func(slot int, _ url.Values) (any, error) { return w.is(slot), nil }))
	mux.HandleFunc("/boot", answer(func(slot int, form url.Values) (any, error) { return nil, w.boot(slot, form.Get("dir")) }))
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

type worldClient struct{ client *http.Client }

func dialWorld(socket string) *worldClient {
	return &worldClient{&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}}
}

func (c *worldClient) call(ctx context.Context, what string, slot int, more url.Values, v any) error {
	form := url.Values{"slot": {strconv.Itoa(slot)}}
	for name, values := range more {
		form[name] = values
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://world/"+what+"?"+form.Encode(), nil)
	if err != nil {
		return err
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(string(body))
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(body, v)
}

func (c *worldClient) power(ctx context.Context, slot int, on bool) error {
	what := "off"
	if on {
		what = "on"
	}
	if err := c.call(ctx, what, slot, nil, nil); err != nil {
		return fmt.Errorf("switching slot %d %s: %w", slot, what, err)
	}
	return nil
}

func (c *worldClient) powered(ctx context.Context, slot int) (on bool, err error) {
	err = c.call(ctx, "powered", slot, nil, &on)
	return on, err
}

func (c *worldClient) boot(ctx context.Context, slot int, dir string) error {
	return c.call(ctx, "boot", slot, url.Values{"dir": {dir}}, nil)
}
