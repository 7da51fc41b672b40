package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// A Client is the command line's end of the service's socket.
type Client struct {
	socket string
	http   *http.Client
}

// How long a service that hangs is waited for: to take a connection, and to
// begin its answer, which comes after the engine's, or after a backup was taken.
const (
	connectTime = 15 * time.Second
	beginTime   = 5 * time.Minute
)

// ErrNotServed says that no service answers on the socket.
var ErrNotServed = errors.New("`hatchery serve` does not run here")

// Dial is the client of the service at a socket, "" for the usual one. Nothing
// is sent yet.
func Dial(socket string) *Client {
	if socket == "" {
		socket = Socket
	}
	d := net.Dialer{Timeout: connectTime}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives:     true,
		ResponseHeaderTimeout: beginTime,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Cluster is where everybody stands.
func (c *Client) Cluster(ctx context.Context) (*enrol.ClusterView, error) {
	v := new(enrol.ClusterView)
	return v, c.Call(ctx, http.MethodGet, enrol.PathCluster, v)
}

// Revoke refuses a slot's present certificate and all before it, and removes
// the slot from the swarm.
func (c *Client) Revoke(ctx context.Context, slot int) (*Revocation, error) {
	rev := new(Revocation)
	return rev, c.Call(ctx, http.MethodPost, pathRevoke+clusterctrl.SlotName(slot), rev)
}

// ClearAlarms forgets the alarms that were raised so far.
func (c *Client) ClearAlarms(ctx context.Context) error {
	return c.Call(ctx, http.MethodDelete, pathAlarms, nil)
}

// Events gives the latest events to f, and with follow those that come, until
// ctx ends, f gives an error, or the service ends. The end of ctx is no error.
func (c *Client) Events(ctx context.Context, follow bool, f func(Event) error) error {
	path := pathEvents
	if follow {
		path += "?follow"
	}
	r, err := c.call(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	for d := json.NewDecoder(r.Body); ; {
		var e Event
		switch err := d.Decode(&e); {
		case ctx.Err() != nil, err == io.EOF && !follow:
			return nil
		case err != nil:
			return fmt.Errorf("the service ended, or this was too slow for it: %w", err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

// Backup has a backup of the swarm taken, and writes it to w, sealed: it opens
// with the controller's key only.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	r, err := c.call(ctx, http.MethodGet, pathBackup)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(w, r.Body); err != nil {
		return fmt.Errorf("the backup broke off: %w", err)
	}
	if done := r.Trailer.Get(backupDone); done != "ok" {
		return fmt.Errorf("the backup broke off: %s", done)
	}
	return nil
}

// Call makes a call on the service's socket, and reads its answer into v, unless
// v is nil. What the service refuses is an *enrol.Error.
func (c *Client) Call(ctx context.Context, method, path string, v any) error {
	return c.Send(ctx, method, path, nil, v)
}

// Send is Call with a body; nil is none.
func (c *Client) Send(ctx context.Context, method, path string, body io.Reader, v any) error {
	r, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if v == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, enrol.MaxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("the service's answer cannot be read: %w (is it of another version than this program?)", err)
	}
	return nil
}

// Copy makes a call on the service's socket, and copies its answer to w.
func (c *Client) Copy(ctx context.Context, path string, w io.Writer) error {
	r, err := c.call(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(w, r.Body)
	return err
}

func (c *Client) call(ctx context.Context, method, path string) (*http.Response, error) {
	return c.send(ctx, method, path, nil)
}

func (c *Client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://hatchery"+path, body)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody answers on %s (see `systemctl status hatchery`; this is done on the controller)", ErrNotServed, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, errors.New("only root may do this: say it with sudo")
	case err != nil:
		return nil, fmt.Errorf("cannot ask the service: %w (see `journalctl -u hatchery`)", err)
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	defer answer.Body.Close()
	refused := &enrol.Error{Status: answer.StatusCode}
	if err := json.NewDecoder(io.LimitReader(answer.Body, enrol.MaxAnswer)).Decode(refused); err != nil || refused.Detail == "" {
		return nil, fmt.Errorf("the service answers %s to %s", answer.Status, path)
	}
	return nil, refused
}
