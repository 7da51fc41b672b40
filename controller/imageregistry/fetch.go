package imageregistry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// What the registry's protocol has below a repository's name.
var (
	blobPath     = regexp.MustCompile(`^/v2/(.+)/blobs/(sha256):([0-9a-f]{64})$`)
	manifestPath = regexp.MustCompile(`^/v2/(.+)/manifests/[^/]+$`)
)

// A mirror is the cache. It hands each blob that is not there yet to many while it comes
// once: distribution's own would fetch it again for everybody who asks meanwhile.
type mirror struct {
	app  http.Handler // distribution's
	room *room
	o    *Options

	mu      sync.Mutex
	fetches map[string]*fetch        // by digest
	turns   map[string]chan struct{} // of manifests, by path
	done    chan struct{}            // closed at the end
	running sync.WaitGroup
}

func newMirror(app http.Handler, room *room, o *Options) *mirror {
	return &mirror{app: app, room: room, o: o, fetches: map[string]*fetch{}, turns: map[string]chan struct{}{}, done: make(chan struct{})}
}

// close ends what is being fetched.
func (m *mirror) close() {
	m.mu.Lock()
	select {
	case <-m.done:
	default:
		close(m.done)
	}
	m.mu.Unlock()
	m.running.Wait()
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	blob := blobPath.FindStringSubmatch(r.URL.Path)
	switch {
	case !reads(r):
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "nothing is pushed to the cache of Docker Hub: push to the registry at port 5000, under a name of your own")
	case r.Method == http.MethodGet && blob != nil:
		m.blob(w, r, blob[1], blob[3])
	case manifestPath.MatchString(r.URL.Path):
		m.manifest(w, r)
	default:
		m.app.ServeHTTP(w, r)
	}
}

// manifest has one after the other ask for the same manifest: the next finds it here.
// Of one that does not come the upstream is asked no longer than it may send nothing.
func (m *mirror) manifest(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	turn := m.turns[r.URL.Path]
	if turn == nil {
		if len(m.turns) > 1000 {
			clear(m.turns) // whoever waits has the channel
		}
		turn = make(chan struct{}, 1)
		m.turns[r.URL.Path] = turn
	}
	m.mu.Unlock()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
		ctx, cancel := context.WithTimeoutCause(r.Context(), m.o.Limits.Stall, fmt.Errorf("the upstream has not sent it for %s", m.o.Limits.Stall))
		defer cancel()
		m.app.ServeHTTP(w, r.WithContext(ctx))
	case <-r.Context().Done():
	}
}

// here says whether a repository has a blob, and has it be the last one to be given up.
func (m *mirror) here(repository, digest string) bool {
	v2 := filepath.Join(m.room.dir, "docker/registry/v2")
	if _, err := os.Stat(filepath.Join(v2, "repositories", filepath.FromSlash(repository), "_layers/sha256", digest, "link")); err != nil {
		return false
	}
	now := time.Now()
	return os.Chtimes(filepath.Join(v2, "blobs/sha256", digest[:2], digest, "data"), now, now) == nil
}

// blob hands a blob to one who asks.
func (m *mirror) blob(w http.ResponseWriter, r *http.Request, repository, digest string) {
	for {
		m.mu.Lock()
		f := m.fetches[digest]
		if f == nil {
			if m.here(repository, digest) {
				m.mu.Unlock()
				m.app.ServeHTTP(w, r)
				return
			}
			if f = m.start(r, repository, digest); f == nil {
				m.mu.Unlock()
				refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE", "the registry is about to end")
				return
			}
		}
		other := f.repository != repository
		f.users++
		m.mu.Unlock()
		var again bool
		if other {
			// The same blob of another repository: that it has it too, the upstream says.
			select {
			case <-f.ended:
			case <-r.Context().Done():
			}
			again = r.Context().Err() == nil
		} else {
			again = f.hand(w, r)
		}
		m.leave(f)
		if !again {
			return
		}
	}
}

// leave is called by everybody who had a fetch.
func (m *mirror) leave(f *fetch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.users--; f.users == 0 && f.file != nil {
		f.file.Close()
	}
}

// fetchKey has a context's fetch.
type fetchKey struct{}

// A fetch is a blob on its way from the upstream into the cache.
type fetch struct {
	repository string
	most       int64         // bytes that there is room for at all
	users      int           // of the mirror's mutex
	ended      chan struct{} // closed when all of it is there, or is not to be had
	beat       chan struct{} // it grows

	mu     sync.Mutex
	more   chan struct{} // closed and made anew when there is more
	file   *os.File      // what came so far
	begun  bool          // the headers are the blob's
	said   http.Header   // they are
	header http.Header   // distribution's
	status int
	body   bytes.Buffer // of an answer that is no blob
	local  bool         // it was there by then
	err    error        // why it broke off
	over   bool
}

// maxRefusal is how much of the upstream's refusal is kept, in bytes.
const maxRefusal = 64 << 10

// start begins a fetch for all who want the blob; nobody's hanging up ends it. The
// mirror's mutex is held.
func (m *mirror) start(r *http.Request, repository, digest string) *fetch {
	select {
	case <-m.done:
		return nil
	default:
	}
	f := &fetch{
		repository: repository, most: m.room.most, users: 1, ended: make(chan struct{}), beat: make(chan struct{}, 1),
		more: make(chan struct{}), header: http.Header{}, status: http.StatusOK,
	}
	m.fetches[digest] = f
	ctx, cancel := context.WithCancelCause(context.WithValue(context.WithoutCancel(r.Context()), fetchKey{}, f))
	request := r.Clone(ctx)
	request.Header.Del("Range")
	m.running.Add(1)
	go func() { // sees that it gets on
		idle := time.NewTimer(m.o.Limits.Stall)
		defer idle.Stop()
		for {
			select {
			case <-f.beat:
				idle.Reset(m.o.Limits.Stall)
			case <-idle.C:
				cancel(fmt.Errorf("the upstream has sent nothing for %s", m.o.Limits.Stall))
			case <-m.done:
				cancel(errors.New("the registry ends"))
				<-f.ended
				return
			case <-f.ended:
				return
			}
		}
	}()
	go func() {
		defer m.running.Done()
		defer cancel(nil)
		err := served(m.app, f, request)
		f.mu.Lock()
		f.over = true
		switch {
		case ctx.Err() != nil:
			f.err = context.Cause(ctx)
		case err != nil:
			f.err = err
		}
		f.mu.Unlock()
		m.mu.Lock()
		if f.begun && !f.local && f.err == nil && !m.here(repository, digest) {
			f.mu.Lock()
			f.err = errors.New("it did not arrive whole")
			f.mu.Unlock()
		}
		if f.err != nil {
			m.o.Log.Warn("a layer was not fetched", "image", repository, "digest", digest, "error", f.err)
		}
		delete(m.fetches, digest)
		m.mu.Unlock()
		close(f.ended)
		f.grown()
		m.leave(f)
	}()
	return f
}

// served has a handler answer; one that gives up has its reason said.
func served(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

// writes is called with the file that what comes is written to.
func (f *fetch) writes(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil {
		return errors.Join(errors.New("a blob is written twice"), file.Close())
	}
	f.file = file
	return nil
}

// grown wakes all who wait for more.
func (f *fetch) grown() {
	f.mu.Lock()
	close(f.more)
	f.more = make(chan struct{})
	f.mu.Unlock()
	select {
	case f.beat <- struct{}{}:
	default:
	}
}

// Header, WriteHeader and Write take distribution's answer: of a blob the headers alone,
// since its bytes are in the file.
func (f *fetch) Header() http.Header { return f.header }

func (f *fetch) WriteHeader(status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = status
}

func (f *fetch) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.begun:
	case f.file == nil || f.status != http.StatusOK:
		// A refusal, or it was here already.
		if f.local = f.status == http.StatusOK; f.local {
			return 0, errors.New("it is here already")
		}
		f.body.Write(p[:min(len(p), maxRefusal-f.body.Len())])
	default:
		if n, err := strconv.ParseInt(f.header.Get("Content-Length"), 10, 64); err == nil && n > f.most {
			return 0, fmt.Errorf("%w: a layer of %d MB is more than it may have", errFull, n>>20)
		}
		f.begun = true
		f.said = f.header.Clone() // distribution goes on with its own
	}
	return len(p), nil
}

// hand gives one who asks the blob as it comes. It says whether it is to be asked for
// again.
func (f *fetch) hand(w http.ResponseWriter, r *http.Request) (again bool) {
	begun := false
	buffer := make([]byte, 64<<10)
	var at int64
	for {
		f.mu.Lock()
		more, over, err := f.more, f.over, f.err
		if !begun && f.begun {
			begun = true
			for name, values := range f.said {
				w.Header()[name] = values
			}
			// A part of it is had by who asks again; the whole is as good.
			w.WriteHeader(http.StatusOK)
		}
		f.mu.Unlock()
		if begun {
			// Before over was read all of it was in the file.
			for {
				n, rerr := f.file.ReadAt(buffer, at)
				if _, werr := w.Write(buffer[:n]); werr != nil {
					return false
				}
				at += int64(n)
				if n < len(buffer) {
					if rerr != nil && rerr != io.EOF {
						panic(http.ErrAbortHandler)
					}
					break
				}
			}
		}
		switch {
		case !over:
			select {
			case <-more:
			case <-r.Context().Done():
				return false
			}
		case begun && err != nil:
			// The length was said: a connection that ends is how the other end is told.
			panic(http.ErrAbortHandler)
		case begun:
			return false
		case f.local && err == nil:
			<-f.ended
			return true
		case err != nil:
			refuse(w, http.StatusBadGateway, "UNAVAILABLE", err.Error())
			return false
		default:
			for name, values := range f.header {
				w.Header()[name] = values
			}
			w.Header().Del("Content-Length")
			w.WriteHeader(f.status)
			w.Write(f.body.Bytes())
			return false
		}
	}
}
