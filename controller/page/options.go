package page

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hatchery/controller"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// The ports, TCP.
const (
	Port    = 7480 // plain HTTP, on the controller itself and the slots' network
	PortTLS = 7481 // HTTPS, on all networks
)

// Options are what [New] works with.
type Options struct {
	Node *nodefile.Node // the controller's own, with all targets
	// View is where everything stands; it is asked about once a second as long as
	// somebody looks. A *controller.Client's Cluster is one.
	View func(ctx context.Context) (*enrol.ClusterView, error)
	// Events gives what happened, and with follow what happens, till ctx ends or it
	// cannot. A *controller.Client's Events is one.
	Events func(ctx context.Context, follow bool, f func(controller.Event) error) error
	// Actions are what can be done with a slot, by name: on, off, cycle, rebuild …
	// An action ends when it is done, or has failed; ctx is the service's.
	Actions map[string]func(ctx context.Context, slot int) error
	// StateDir is where the operator's token is kept.
	StateDir string
	// IdentityDir has the page's certificate; "" is enrol.IdentityDir.
	IdentityDir string
	// Metrics and Document are at PathMetrics and PathDocument, where they are there.
	Metrics, Document http.Handler
	// Listen are the addresses of plain HTTP; none: 127.0.0.1 and the controller's
	// own on the slots' network. One that is not there yet is waited for.
	Listen []string
	// ListenTLS is the address of HTTPS, "" for all of them; it is used where the
	// node file says so.
	ListenTLS string
	// Listening is told of each address that is listened on; may be nil.
	Listening func(address net.Addr, tls bool)
	Log       *slog.Logger

	Times Times
}

// Times are how long the page waits for what. The zero value of each is what is
// right for a cluster.
type Times struct {
	// Poll is how often it is looked where everything stands. Default: a second.
	Poll time.Duration
	// Answer is how long a browser waits for an action before it is told that it
	// goes on. Default: 10 seconds.
	Answer time.Duration
	// Header is how long a request's head may take, and Body how long all of it.
	// Default: 10 and 30 seconds.
	Header, Body time.Duration
	// Alive is how often a stream says that it is alive, and how long a browser
	// may take to read what it is sent. Default: 20 seconds.
	Alive time.Duration
	// Again is how long after it failed something is tried again: an address, the
	// events. Default: a second.
	Again time.Duration
}

func (t Times) withDefaults() Times {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&t.Poll, time.Second},
		{&t.Answer, 10 * time.Second},
		{&t.Header, 10 * time.Second},
		{&t.Body, 30 * time.Second},
		{&t.Alive, 20 * time.Second},
		{&t.Again, time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	return t
}

// check sees that the options can be served, and fills in what is usual.
func (o *Options) check() error {
	switch {
	case o.Node == nil || !o.Node.IsController():
		return errors.New("the page is the controller's only: " + nodefile.Path + " is a node's")
	case o.View == nil || o.Events == nil:
		return errors.New("the page needs to know where everything stands, and what happens")
	}
	if o.StateDir == "" {
		o.StateDir = controller.StateDir
	}
	if o.IdentityDir == "" {
		o.IdentityDir = enrol.IdentityDir
	}
	if len(o.Listen) == 0 {
		o.Listen = []string{
			net.JoinHostPort("127.0.0.1", strconv.Itoa(Port)),
			netip.AddrPortFrom(o.Node.ControllerAddr, Port).String(),
		}
	}
	if o.ListenTLS == "" {
		o.ListenTLS = net.JoinHostPort("0.0.0.0", strconv.Itoa(PortTLS))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Times = o.Times.withDefaults()
	return nil
}

// lan says whether the page is served on all networks.
func (o *Options) lan() bool { return o.Node.Serve != nil && o.Node.Serve.Listen == nodefile.ListenLAN }

// names are those by which browsers may ask for the page, beside addresses.
func (o *Options) names() []string {
	host := strings.ToLower(o.Node.Hostname)
	names := []string{"localhost", host, host + ".local", o.Node.Name}
	if o.Node.Domain != "" {
		names = append(names, host+"."+strings.ToLower(o.Node.Domain))
	}
	return names
}

// tokenPath is where the operator's token lies.
func (o *Options) tokenPath() string { return filepath.Join(o.StateDir, "page-token") }
