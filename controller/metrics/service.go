package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"hatchery/controller"
	"hatchery/internal/enrol"
)

// Path is where the metrics are, on the service's socket and on the page.
const Path = "/metrics"

// Options are what the metrics are of.
type Options struct {
	Version string // hatchery's
	// View is where everybody stands, as `hatchery status` has it.
	View func(ctx context.Context) (*enrol.ClusterView, error)
	// Events gives the latest events and those that come to f, until ctx ends or
	// the other end has no more; (*controller.Client).Events is one. nil: events
	// are not counted.
	Events func(ctx context.Context, follow bool, f func(controller.Event) error) error
	Log    *slog.Logger
}

// A Service collects the metrics.
type Service struct {
	o        Options
	registry *prometheus.Registry
	counts   counts
}

// New makes the metrics. [Service.Run] counts what happens.
func New(o Options) (*Service, error) {
	if o.View == nil {
		return nil, errors.New("the metrics need a view of the cluster")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, registry: prometheus.NewRegistry()}
	s.counts.init()
	for _, c := range []prometheus.Collector{s, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := s.registry.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Register adds the metrics of others to the registry.
func (s *Service) Register(others ...prometheus.Collector) error {
	for _, c := range others {
		if err := s.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// scrapeTime is how long a scrape may take, and scrapes how many there may be at
// a time: Prometheus' own limits are of that kind.
const (
	scrapeTime = 10 * time.Second
	scrapes    = 4
)

// Calls answers GET [Path] with all metrics, in Prometheus' text format. A
// collector that fails keeps the others' metrics from nobody.
func (s *Service) Calls() http.Handler {
	handler := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		ErrorLog:            complaints{s.o.Log},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapes,
		DisableCompression:  true,
	})
	mux := http.NewServeMux()
	mux.Handle("GET "+Path, handler)
	return mux
}

type complaints struct{ log *slog.Logger }

func (c complaints) Println(v ...any) { c.log.Warn("some metrics cannot be collected", "error", v) }

// followAgain is how long after the events ended they are followed again.
const followAgain = 2 * time.Second

// Run counts what happens until ctx ends, which is no error.
func (s *Service) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { s.watchJoins(ctx) })
	if s.o.Events == nil {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		again := s.counts.reconnected()
		err := s.o.Events(ctx, true, func(e controller.Event) error {
			if again.isNew(e) {
				s.counts.event(e)
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			s.o.Log.Debug("the events ended, and are followed again", "error", err)
		}
		pause(ctx, followAgain)
	}
	return nil
}

// joinsEvery is how often it is looked who has joined.
const joinsEvery = 5 * time.Second

// watchJoins counts the slots' nodes that are new in the swarm.
func (s *Service) watchJoins(ctx context.Context) {
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, scrapeTime)
		v, err := s.o.View(asking)
		cancel()
		if err == nil {
			s.counts.members(v)
		}
		pause(ctx, joinsEvery)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// A Caller makes calls on the service's socket; *controller.Client is one.
type Caller interface {
	// Copy makes a call and copies its answer.
	Copy(ctx context.Context, path string, w io.Writer) error
}

// A Client is the command line's end of the calls.
type Client struct{ Caller Caller }

// Metrics are all metrics, in Prometheus' text format.
func (c Client) Metrics(ctx context.Context, w io.Writer) error { return c.Caller.Copy(ctx, Path, w) }
