package imageregistry

import (
	"errors"
	"log/slog"
	"net/url"
	"time"

	"hatchery/internal/enrol"
)

// The ports on the controller's address.
const (
	Port       = 5000
	MirrorPort = 5001
)

// DockerHub is what the cache stands for.
const DockerHub = "https://registry-1.docker.io"

// Options are what a [Service] works with.
type Options struct {
	Dir      string          // its folder; it is made
	Identity *enrol.Identity // the controller's
	// Revocations is the controller's file of what was revoked; "" for none. One
	// that is not there revokes nothing.
	Revocations string
	Upstream    string // what the cache is of; "" is Docker Hub
	// Helper is a program that says who the cache is to the upstream, as Docker's
	// credential helpers do: with nothing, for nobody in particular. Without one the
	// upstream has to be reachable when the service starts.
	Helper string
	Limits Limits
	Log    *slog.Logger
}

// Limits are how much is kept, and when it is looked at. The zero value of each is what
// is right for a card.
type Limits struct {
	// Images and Cache are what images that were pushed and what the cache may take, in
	// bytes: a quarter of the file system each.
	Images, Cache int64
	// Free is what is left free, in bytes: a tenth of the file system, at most 1 GB.
	Free int64
	// Expire is when what was fetched is dropped: after 30 days.
	Expire time.Duration
	// Stall is how long the upstream may send nothing: one minute.
	Stall time.Duration
	// Look is the time between two looks at what could be removed, a minute; Quiet how
	// long nobody pushed before anything is, 15 minutes; and Sweep the time between two
	// removals where there is room enough, a day.
	Look, Quiet, Sweep time.Duration
}

func (o *Options) check() error {
	if o.Dir == "" || o.Identity == nil {
		return errors.New("the registry needs its folder and the controller's identity")
	}
	if o.Upstream == "" {
		o.Upstream = DockerHub
	}
	if u, err := url.Parse(o.Upstream); err != nil || u.Host == "" {
		return errors.New("the registry's upstream is no URL such as " + DockerHub)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		of       *time.Duration
		elsewise time.Duration
	}{
		{&o.Limits.Expire, 30 * 24 * time.Hour}, {&o.Limits.Stall, time.Minute},
		{&o.Limits.Look, time.Minute}, {&o.Limits.Quiet, 15 * time.Minute}, {&o.Limits.Sweep, 24 * time.Hour},
	} {
		if *d.of <= 0 {
			*d.of = d.elsewise
		}
	}
	return nil
}
