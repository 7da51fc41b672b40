package preserve

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"hatchery/internal/enrol"
	"hatchery/internal/kept"
)

// Calls serves kept.Path and kept.PathStream by patterns as http.ServeMux has them,
// for the cluster's controller alone. The server has enrol.ServerTLS. One call at a
// time is gone after: a node has one card, and little memory.
func (k *Keeper) Calls() map[string]http.Handler {
	refusals := rate.NewLimiter(rate.Every(10*time.Second), 10)
	var busy sync.Mutex
	only := func(serve func(w http.ResponseWriter, r *http.Request) error) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, err := enrol.PeerOfRequest(r)
			if err == nil && (peer.Slot != 0 || peer.Cluster != k.o.Node.Cluster) {
				err = fmt.Errorf("what this node has is for the controller of %s alone, and this is %s", k.o.Node.Cluster, peer)
			}
			if err != nil {
				err = &enrol.Error{Status: http.StatusForbidden, Code: enrol.BadRequest, Detail: err.Error()}
			} else if !busy.TryLock() {
				err = &enrol.Error{Status: http.StatusServiceUnavailable, Code: kept.Failed, Detail: "this node is at it already"}
			} else {
				defer busy.Unlock()
				err = serve(w, r)
			}
			if err == nil {
				return
			}
			if refusals.Allow() {
				k.o.Log.Warn("a call about what outlives the root was refused", "call", r.Method, "from", r.RemoteAddr, "error", err)
			}
			var e *enrol.Error
			if !errors.As(err, &e) {
				e = &enrol.Error{Code: kept.Failed, Detail: err.Error()}
			}
			enrol.WriteError(w, e)
		})
	}
	return map[string]http.Handler{
		"GET " + kept.Path: only(func(w http.ResponseWriter, r *http.Request) error {
			unhurried(w)
			p, err := k.Plan(r.Context())
			if err == nil {
				enrol.WriteJSON(w, http.StatusOK, p)
			}
			return err
		}),
		"POST " + kept.PathStream: only(k.stream),
	}
}

// unhurried takes the request's deadline away: while the server waits for what the
// other end says next, it would end the call.
func unhurried(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (k *Keeper) stream(w http.ResponseWriter, r *http.Request) error {
	var order kept.Order
	if err := enrol.ReadBody(w, r, &order, kept.MaxBody); err != nil {
		return err
	}
	if err := order.Check(); err != nil {
		return &enrol.Error{Code: enrol.BadRequest, Detail: err.Error()}
	}
	unhurried(w)
	if err := k.fit(order.Roots); err != nil {
		return &enrol.Error{Code: enrol.BadRequest, Detail: err.Error()}
	}
	if users, unknown := k.users(r.Context(), order.Roots); !order.Force && (len(users) > 0 || unknown != "") {
		if len(users) > 0 {
			unknown = fmt.Sprintf("container %.100s may write to %.200s", users[0].Container, strings.Join(users[0].Roots, ", "))
		}
		return &enrol.Error{Status: http.StatusConflict, Code: kept.InUse, Detail: unknown}
	}
	h := w.Header()
	h.Set("Trailer", kept.Trailer+", "+kept.FailureTrailer)
	h.Set("Content-Type", "application/x-tar")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	digest, err := k.Pack(r.Context(), kept.Moving(w), order.Roots, order.Most)
	if err != nil {
		k.o.Log.Warn("what outlives the root could not be given to the controller", "error", err)
		h.Set(kept.FailureTrailer, header(err.Error()))
		return nil
	}
	h.Set(kept.Trailer, digest)
	return nil
}

// header is a text that a line of HTTP's can have.
func header(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 1000)]
}

// fit sees that roots are this node's to give.
func (k *Keeper) fit(roots []kept.Root) error {
	device, err := deviceOf(k.o.StateDir)
	if err != nil {
		return err
	}
	for _, r := range roots {
		why := k.allowed(r)
		if why == "" {
			if why, err = k.unfit(r, device); err != nil {
				return err
			}
		}
		if why != "" {
			return fmt.Errorf("%s is not kept: %s", r, why)
		}
	}
	return nil
}

// Pack writes an archive of roots, of at most so many bytes, and gives its digest.
func (k *Keeper) Pack(ctx context.Context, w io.Writer, roots []kept.Root, most int64) (digest string, err error) {
	to := &bounded{w: w, sum: sha256.New(), left: most, most: most}
	p := &packer{ctx: ctx, to: tar.NewWriter(to), left: func(name, why string) {
		k.o.Log.Warn("is not kept", "path", name, "reason", why)
	}}
	for _, r := range roots {
		if err := p.root(r, k.place(r)); err != nil {
			return "", err
		}
	}
	if err := p.to.Close(); err != nil {
		return "", err
	}
	return hex.EncodeToString(to.sum.Sum(nil)), nil
}

// bounded sums up what is written, up to so much.
type bounded struct {
	w          io.Writer
	sum        hash.Hash
	left, most int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("it has become more than %d bytes meanwhile: stop what writes there", b.most)
	}
	b.sum.Write(p)
	return b.w.Write(p)
}
