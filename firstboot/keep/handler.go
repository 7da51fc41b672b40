package keep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/swarmbackup"
)

// stall is how long a backup may stand still on its way here.
const stall = time.Minute

// Handler serves a store under enrol.PathBackup, for the cluster's controller alone.
// The server has enrol.ServerTLS.
func Handler(store *Store, cluster string, log *slog.Logger) http.Handler {
	h := &handler{store: store, log: log, refusals: rate.NewLimiter(rate.Every(10*time.Second), 10)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrol.PathBackup, h.list)
	mux.HandleFunc("GET "+enrol.PathBackup+"/{id}", h.get)
	mux.HandleFunc("PUT "+enrol.PathBackup+"/{id}", h.put)
	// Another node has no business with backups, sealed as they are.
	return enrol.ControllerOnly(cluster, mux)
}

// limits are the connections' that a node has memory for. Only the controller
// has business here; others are told so.
var limits = enrol.Limits{All: 24, PerAddress: 8, Strangers: 16, Known: func(a netip.Addr) bool { return a == clusterctrl.ControllerAddr() }}

// Serve serves a store on a listener until the context ends, and beside it whatever else
// the controller asks of a node, by patterns as http.ServeMux has them.
func Serve(ctx context.Context, listener net.Listener, store *Store, id *enrol.Identity, log *slog.Logger, beside ...map[string]http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("/", Handler(store, id.Peer.Cluster, log))
	for _, calls := range beside {
		for pattern, handler := range calls {
			mux.Handle(pattern, handler)
		}
	}
	server := enrol.NewServer(id, mux, log)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := server.ServeTLS(enrol.Gate(listener, limits), "", "")
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("cannot serve the kept backups on %s: %w", listener.Addr(), err)
}

type handler struct {
	store *Store
	log   *slog.Logger
	// refusals is how often one is told: a card of another slot in a loop does
	// not fill this one's journal.
	refusals *rate.Limiter
}

// refuse answers with an error.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	if h.refusals.Allow() {
		h.log.Warn("a call about backups was refused", "call", r.Method, "from", r.RemoteAddr, "error", err)
	}
	enrol.WriteError(w, &enrol.Error{Status: status, Code: enrol.BadRequest, Detail: err.Error()})
}

func (h *handler) list(w http.ResponseWriter, r *http.Request) {
	listing, err := h.store.List()
	if err != nil {
		h.refuse(w, r, http.StatusInternalServerError, err)
		return
	}
	enrol.WriteJSON(w, http.StatusOK, listing)
}

func (h *handler) get(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	f, err := h.store.Get(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.refuse(w, r, http.StatusNotFound, errors.New("this backup is not kept here"))
		return
	case err != nil:
		h.refuse(w, r, http.StatusInternalServerError, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := enrol.NewMoving(w)
	defer out.End()
	http.ServeContent(out, r, "", time.Time{}, f)
}

func (h *handler) put(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	switch {
	case !swarmbackup.ValidID(id):
		h.refuse(w, r, http.StatusBadRequest, errors.New("the id of a backup is a SHA-256 in lower-case hexadecimal"))
		return
	case r.ContentLength < 0:
		h.refuse(w, r, http.StatusLengthRequired, errors.New("the size of the backup is needed beforehand"))
		return
	case r.ContentLength > swarmbackup.MaxSize:
		h.refuse(w, r, http.StatusRequestEntityTooLarge, fmt.Errorf("a backup of %d bytes is too large, at most %d are taken", r.ContentLength, int64(swarmbackup.MaxSize)))
		return
	}
	body := &movingBody{r.Body, http.NewResponseController(w), nil}
	isNew, err := h.store.Put(id, r.ContentLength, body)
	switch {
	case err == nil && isNew:
		h.log.Info("a backup of the swarm is kept", "id", id, "bytes", r.ContentLength)
		w.WriteHeader(http.StatusCreated)
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case errors.Is(err, ErrNoRoom), errors.Is(err, syscall.ENOSPC):
		h.refuse(w, r, http.StatusInsufficientStorage, err)
	case errors.Is(err, ErrNotIt):
		h.refuse(w, r, http.StatusUnprocessableEntity, err)
	case body.err != nil:
		h.refuse(w, r, http.StatusBadRequest, fmt.Errorf("the backup did not arrive: %w", body.err))
	default:
		h.refuse(w, r, http.StatusInternalServerError, err)
	}
}

// movingBody is a body that may take its time, but not stand still.
type movingBody struct {
	r          io.Reader
	controller *http.ResponseController
	err        error
}

func (m *movingBody) Read(p []byte) (int, error) {
	if err := m.controller.SetReadDeadline(time.Now().Add(stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := m.r.Read(p)
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}
