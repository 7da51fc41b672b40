package imageregistry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/sirupsen/logrus"
)

// A Service is the registry and the cache.
type Service struct {
	o             Options
	images, cache *disk
	apps          []*handlers.App
	mirror        *mirror
	close         func() error

	shrinking sync.Mutex
	pushing   sync.RWMutex // held by requests that write; a sweep has it alone
	pushed    atomic.Int64 // when last something was, in nanoseconds
}

// The folders of Options.Dir.
const (
	imagesDir = "images"
	cacheDir  = "cache"
)

// New opens the registry's folder.
func New(o Options) (*Service, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	// Of each request it would write lines; what matters is in its answers.
	logrus.SetLevel(logrus.PanicLevel)
	s := &Service{o: o}
	for _, d := range []struct {
		name string
		most int64
		disk **disk
	}{{imagesDir, o.Limits.Images, &s.images}, {cacheDir, o.Limits.Cache, &s.cache}} {
		dir := filepath.Join(o.Dir, d.name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot open the registry: %w", err)
		}
		room, err := newRoom(dir, d.most, o.Limits.Free)
		if err != nil {
			return nil, fmt.Errorf("cannot open the registry: %w", err)
		}
		*d.disk = newDisk(room)
	}
	images, err := s.open(s.images, configuration.Proxy{})
	if err != nil {
		return nil, fmt.Errorf("cannot open the registry: %w", err)
	}
	// Longer than any layer takes.
	long := 6 * time.Hour
	proxy := configuration.Proxy{RemoteURL: o.Upstream, TTL: &s.o.Limits.Expire, CacheWriteTimeout: &long}
	if o.Helper != "" {
		proxy.Exec = &configuration.ExecConfig{Command: o.Helper}
	}
	cache, err := s.open(s.cache, proxy)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the cache of %s: %w", o.Upstream, err), images.Shutdown())
	}
	s.apps = []*handlers.App{images, cache}
	s.cache.relieve = func() { s.shrink(true) }
	s.images.relieve = s.recount
	s.mirror = newMirror(cache, s.cache.room, &s.o)
	s.close = sync.OnceValue(s.end)
	return s, nil
}

// open makes one of distribution's registries, which panic at what is wrong with them.
func (s *Service) open(d *disk, proxy configuration.Proxy) (app *handlers.App, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	c := &configuration.Configuration{
		Storage: configuration.Storage{
			driverName: configuration.Parameters{"disk": d},
			"delete":   configuration.Parameters{"enabled": true},
			"redirect": configuration.Parameters{"disable": true},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{
				"enabled": true, "age": "24h", "interval": "24h", "dryrun": false,
			}},
		},
		Proxy: proxy,
	}
	c.HTTP.RelativeURLs = true // uploads go on at the address that they began at
	return handlers.NewApp(context.Background(), c), nil
}

// Registry is what answers at [Port]: what was pushed, and below docker.io/ the cache.
func (s *Service) Registry() http.Handler {
	return &gate{s.o.Identity.Peer.Cluster, s.o.Revocations, http.HandlerFunc(s.registry)}
}

// Mirror is what answers at [MirrorPort]: the cache, as engines take a mirror.
func (s *Service) Mirror() http.Handler {
	return &gate{s.o.Identity.Peer.Cluster, s.o.Revocations, s.mirror}
}

// hubPrefix is where the registry has what comes from Docker Hub.
const hubPrefix = "/v2/docker.io/"

func (s *Service) registry(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, hubPrefix); ok {
		if name, _, _ := strings.Cut(rest, "/"); strings.HasPrefix(rest, name+"/manifests/") || strings.HasPrefix(rest, name+"/blobs/") || strings.HasPrefix(rest, name+"/tags/") {
			rest = "library/" + rest
		}
		r = r.Clone(r.Context())
		r.URL.Path, r.URL.RawPath, r.RequestURI = "/v2/"+rest, "", ""
		s.mirror.ServeHTTP(w, r)
		return
	}
	if reads(r) {
		s.apps[0].ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodDelete {
		if err := s.images.take(int(max(0, r.ContentLength))); err != nil {
			refuse(w, http.StatusInsufficientStorage, "DENIED", fmt.Sprintf("%v: remove images that nobody needs (docs/registry.md)", err))
			return
		}
		s.images.room.give(max(0, r.ContentLength))
	}
	s.pushing.RLock()
	defer s.pushing.RUnlock()
	s.pushed.Store(time.Now().UnixNano())
	s.apps[0].ServeHTTP(w, r)
	s.pushed.Store(time.Now().UnixNano())
}

// Serve answers until the context ends.
func (s *Service) Serve(ctx context.Context, registry, mirror net.Listener) error {
	tidying, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.tidy(tidying) })
	config := tlsFor(s.o.Identity)
	ended := make(chan error, 2)
	var servers []*http.Server
	for _, x := range []struct {
		listener net.Listener
		handler  http.Handler
	}{{registry, s.Registry()}, {mirror, s.Mirror()}} {
		server := &http.Server{
			Handler: x.handler, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
			ErrorLog: log.New(io.Discard, "", 0), // who hangs up is no matter
		}
		servers = append(servers, server)
		go func() { ended <- server.Serve(tls.NewListener(x.listener, config)) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	cancel()
	// Whoever pulls or pushes goes on with the next service where he was.
	closing, done := context.WithTimeout(context.Background(), 3*time.Second)
	defer done()
	for _, server := range servers {
		if server.Shutdown(closing) != nil {
			server.Close()
		}
	}
	running.Wait()
	return errors.Join(err, s.Close())
}

// Close ends what is under way, and has the cache's dates written down.
func (s *Service) Close() error { return s.close() }

func (s *Service) end() error {
	s.mirror.close()
	var errs []error
	for _, app := range s.apps {
		errs = append(errs, app.Shutdown())
	}
	return errors.Join(errs...)
}
