package netboot

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/netboot/slots"
	"hatchery/netboot/slots/metrics"
	"hatchery/netboot/store"
)

// Prefix is where the calls are on the service's socket.
const Prefix = "/netboot/"

// What a call does with a slot: POST Prefix + "slots/p2/" + one of these.
const (
	DoNetboot   = "netboot"   // boots over its link, and keeps what it writes
	DoEphemeral = "ephemeral" // boots over its link, and writes to its memory
	DoDisable   = "disable"
	DoReset     = "reset"
	DoUndo      = "undo"
	DoRetry     = "retry"
	DoStopped   = "stopped"
	DoOn        = "on"
	DoOff       = "off"
	DoCycle     = "cycle"
)

// Conflict is the code of a call that cannot be done as things stand.
const Conflict enrol.Code = "conflict"

// Calls answers the command line, under Prefix:
//
//	GET  …            the View
//	GET  …metrics     the slots for Prometheus, as text
//	POST …slots/p2/X  does X, one of the constants beginning with Do
func (s *Service) Calls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"{$}", func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, s.View())
	})
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.Collector())
	mux.Handle("GET "+Prefix+"metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true}))
	actions := map[string]func(context.Context, int) error{
		DoNetboot:   func(ctx context.Context, n int) error { return s.Enable(ctx, n, store.Netboot) },
		DoEphemeral: func(ctx context.Context, n int) error { return s.Enable(ctx, n, store.Ephemeral) },
		DoDisable:   s.Disable, DoReset: s.Reset, DoUndo: s.Undo, DoRetry: s.Retry, DoStopped: s.Stopped,
		DoOn: s.On, DoOff: s.Off, DoCycle: s.Cycle,
	}
	mux.HandleFunc("POST "+Prefix+"slots/{slot}/{action}", func(w http.ResponseWriter, r *http.Request) {
		n, err := clusterctrl.ParseSlot(r.PathValue("slot"))
		if err == nil {
			_, err = s.slot(n)
		}
		if err != nil {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: err.Error()})
			return
		}
		act, ok := actions[r.PathValue("action")]
		if !ok {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.BadRequest, Detail: "there is no such action"})
			return
		}
		// What is begun is brought to its end, whether or not anybody waits.
		if err := act(context.WithoutCancel(r.Context()), n); err != nil {
			enrol.WriteError(w, &enrol.Error{Status: statusOf(err), Code: Conflict, Detail: err.Error()})
			return
		}
		status, _ := s.board.Status(n)
		enrol.WriteJSON(w, http.StatusOK, s.slotView(status, s.server.Counters()))
	})
	return mux
}

// Collector shows the slots to Prometheus.
func (s *Service) Collector() prometheus.Collector { return metrics.NewCollector(s.board, s.rootOf) }

// rootOf is what was done with a slot's root, for its metrics.
func (s *Service) rootOf(n int) (metrics.Root, bool) {
	sl, err := s.slot(n)
	if err != nil {
		return metrics.Root{}, false
	}
	c, served := s.server.Counters()[sl.name()]
	r := metrics.Root{Read: uint64(c.BytesRead), Written: uint64(c.BytesWritten)}
	if d := sl.diskView(); d != nil {
		r.Stored, served = d.Stored, true
	}
	return r, served
}

// statusOf tells what stands in the way from what failed.
func statusOf(err error) int {
	for _, way := range []error{store.ErrRunning, store.ErrNoPrevious, store.ErrHasRoot, store.ErrNoRoot, store.ErrOff, store.ErrNotRunning, slots.ErrNoPower} {
		if errors.Is(err, way) {
			return http.StatusConflict
		}
	}
	return http.StatusInternalServerError
}

// A Caller makes calls on the service's socket; *controller.Client is one.
type Caller interface {
	// Call makes a call and reads its answer into v, unless v is nil.
	Call(ctx context.Context, method, path string, v any) error
	// Copy makes a call and copies its answer.
	Copy(ctx context.Context, path string, w io.Writer) error
}

// A Client is the command line's end of the calls.
type Client struct{ Caller Caller }

// View is where everything stands.
func (c Client) View(ctx context.Context) (*View, error) {
	v := new(View)
	return v, c.Caller.Call(ctx, http.MethodGet, Prefix, v)
}

// Metrics are the slots for Prometheus, as its text format.
func (c Client) Metrics(ctx context.Context, w io.Writer) error {
	return c.Caller.Copy(ctx, Prefix+"metrics", w)
}

// Do does something with a slot, one of the constants beginning with Do.
func (c Client) Do(ctx context.Context, n int, what string) (*SlotView, error) {
	v := new(SlotView)
	return v, c.Caller.Call(ctx, http.MethodPost, Prefix+"slots/"+clusterctrl.SlotName(n)+"/"+what, v)
}
