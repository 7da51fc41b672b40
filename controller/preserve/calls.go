package preserve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/kept"
)

// NodeCalls are what nodes with new roots ask, for controller.Options.Calls.
func (k *Keeper) NodeCalls() map[string]func(w http.ResponseWriter, r *http.Request, slot int) {
	return map[string]func(w http.ResponseWriter, r *http.Request, slot int){
		"GET " + kept.Path:          k.offer,
		"GET " + kept.PathStream:    k.stream,
		"POST " + kept.PathRestored: k.restored,
	}
}

// Unavailable answers nodes in the place of NodeCalls where there is no Keeper: they wait,
// since what cannot be looked at may well be there.
func Unavailable(why error) map[string]func(w http.ResponseWriter, r *http.Request, slot int) {
	calls := (*Keeper)(nil).NodeCalls()
	for pattern := range calls {
		calls[pattern] = func(w http.ResponseWriter, _ *http.Request, _ int) { wait(w, why) }
	}
	return calls
}

// waiting is what of a slot's its node has not got back, nil for nothing.
func (k *Keeper) waiting(slot int) *record {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.slots[slot]; r.waits() {
		return r
	}
	return nil
}

// early answers a node that gets nothing yet. Where nobody knows what is kept for it, to be
// told that there is nothing would be the end of what there is; and what a root has back
// that is written over is not given again.
func (k *Keeper) early(w http.ResponseWriter, slot int) bool {
	err := k.known(slot)
	if err == nil && k.o.Rewrites(slot) {
		err = errRewritten
	}
	if err != nil {
		wait(w, err)
	}
	return err != nil
}

var errRewritten = errors.New("this node's card is not whole, and is about to be written on: what was kept is for the root that stays")

// wait asks a node to come back.
func wait(w http.ResponseWriter, why error) {
	enrol.WriteError(w, &enrol.Error{Status: http.StatusServiceUnavailable, Code: kept.Failed, Detail: why.Error(), RetryAfterS: retryPersonS})
}

// retryPersonS is when to come back where a person has to look, in seconds.
const retryPersonS = 30

func (k *Keeper) offer(w http.ResponseWriter, _ *http.Request, slot int) {
	if k.early(w, slot) {
		return
	}
	var o kept.Offer
	if r := k.waiting(slot); r != nil {
		o = r.Offer
	}
	enrol.WriteJSON(w, http.StatusOK, &o)
}

func (k *Keeper) stream(w http.ResponseWriter, r *http.Request, slot int) {
	release, err := k.take(slot)
	if err != nil {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusServiceUnavailable, Code: kept.InUse, Detail: err.Error()})
		return
	}
	defer release()
	if k.early(w, slot) {
		return
	}
	what := k.waiting(slot)
	if what == nil {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.BadRequest, Detail: "nothing is kept for this slot"})
		return
	}
	f, err := os.Open(k.archive(slot, what.Digest))
	if err == nil {
		defer f.Close()
		var from *zstd.Decoder
		if from, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20)); err == nil {
			defer from.Close()
			// The deadline of the request is not one of the answer.
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
			w.Header().Set("Content-Type", "application/x-tar")
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Content-Length", strconv.FormatInt(what.Bytes, 10))
			// What is missing of the length says that it is not whole.
			if _, err = io.Copy(kept.Moving(w), io.LimitReader(from, what.Bytes)); err != nil {
				k.o.Log.Warn("what was kept could not be given back whole; the node asks again", "slot", clusterctrl.SlotName(slot), "error", err)
			}
			return
		}
	}
	k.o.Log.Error("what was kept cannot be read", "slot", clusterctrl.SlotName(slot), "error", err)
	enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: kept.Failed, Detail: "what was kept cannot be read on the controller: " + err.Error()})
}

func (k *Keeper) restored(w http.ResponseWriter, r *http.Request, slot int) {
	var receipt kept.Receipt
	if err := enrol.ReadBody(w, r, &receipt, kept.MaxBody); err != nil {
		refuse(w, err)
		return
	}
	if err := receipt.Check(); err != nil {
		refuse(w, err)
		return
	}
	if k.o.Rewrites(slot) {
		wait(w, errRewritten)
		return
	}
	for i := range receipt.Left {
		receipt.Left[i].Name, receipt.Left[i].Why = hearsay.Line(receipt.Left[i].Name, 256), hearsay.Line(receipt.Left[i].Why, 256)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// Of one that is gone meanwhile, there is nothing to note.
	if had := k.slots[slot]; had != nil && had.Digest == receipt.Digest && !had.Restored && !had.Aside {
		now := *had
		now.Restored, now.NotRestored, now.Withheld = true, receipt.Left, false
		if err := k.write(slot, &now); err != nil {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: kept.Failed, Detail: err.Error()})
			return
		}
		k.o.Log.Info("a node has back what was kept of it", "slot", clusterctrl.SlotName(slot), "left", len(receipt.Left))
	}
	enrol.WriteJSON(w, http.StatusOK, struct{}{})
}

func refuse(w http.ResponseWriter, err error) {
	var e *enrol.Error
	if !errors.As(err, &e) {
		e = &enrol.Error{Code: enrol.BadRequest, Detail: err.Error()}
	}
	enrol.WriteError(w, e)
}

// Prefix is where the calls are on the service's socket.
const Prefix = "/kept/"

// Calls answers the command line, under Prefix:
//
//	GET    …          []View
//	GET    …p2/plan      the kept.Plan of a slot's node
//	GET    …p2/archive   what is kept of a slot, as it lies here: a tar in zstd
//	DELETE …p2           throws away what is kept of a slot
func (k *Keeper) Calls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"{$}", func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, k.View())
	})
	of := func(do func(r *http.Request, slot int) (any, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			slot, err := clusterctrl.ParseSlot(r.PathValue("slot"))
			if err == nil {
				_, err = k.o.Addr(slot)
			}
			if err != nil {
				enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: err.Error()})
				return
			}
			v, err := do(r, slot)
			switch {
			case errors.Is(err, ErrDamaged):
				enrol.WriteError(w, &enrol.Error{Status: http.StatusServiceUnavailable, Code: kept.Failed, Detail: err.Error(), RetryAfterS: retryPersonS})
			case errors.Is(err, ErrBusy):
				enrol.WriteError(w, &enrol.Error{Status: http.StatusConflict, Code: kept.InUse, Detail: err.Error()})
			case err != nil:
				enrol.WriteError(w, &enrol.Error{Status: http.StatusBadGateway, Code: kept.Failed, Detail: err.Error()})
			default:
				enrol.WriteJSON(w, http.StatusOK, v)
			}
		}
	}
	mux.HandleFunc("GET "+Prefix+"{slot}/plan", of(func(r *http.Request, slot int) (any, error) { return k.Plan(r.Context(), slot) }))
	mux.HandleFunc("GET "+Prefix+"{slot}/archive", func(w http.ResponseWriter, r *http.Request) {
		slot, err := clusterctrl.ParseSlot(r.PathValue("slot"))
		if err == nil {
			if err := k.known(slot); err != nil {
				wait(w, err)
				return
			}
			err = k.give(w, slot)
		}
		if err != nil {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: err.Error()})
		}
	})
	mux.HandleFunc("DELETE "+Prefix+"{slot}", of(func(_ *http.Request, slot int) (any, error) { return struct{}{}, k.Drop(slot) }))
	return mux
}

// give gives a slot's archive to a person. The error says that there is none.
func (k *Keeper) give(w http.ResponseWriter, slot int) error {
	k.mu.Lock()
	var f *os.File
	err := fmt.Errorf("nothing is kept of %s", clusterctrl.SlotName(slot))
	if r := k.slots[slot]; r != nil {
		f, err = os.Open(k.archive(slot, r.Digest))
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/zstd")
	w.Header().Set("Cache-Control", "no-store")
	// What is missing of the length says that it is not whole.
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	if _, err := io.Copy(kept.Moving(w), f); err != nil {
		k.o.Log.Warn("what is kept could not be fetched whole", "slot", clusterctrl.SlotName(slot), "error", err)
	}
	return nil
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

// View is what is kept.
func (c Client) View(ctx context.Context) ([]View, error) {
	var v []View
	return v, c.wrap(c.Caller.Call(ctx, http.MethodGet, Prefix, &v))
}

// Plan is what would be kept of a slot.
func (c Client) Plan(ctx context.Context, slot int) (*kept.Plan, error) {
	p := new(kept.Plan)
	return p, c.wrap(c.Caller.Call(ctx, http.MethodGet, Prefix+clusterctrl.SlotName(slot)+"/plan", p))
}

// Archive fetches what is kept of a slot: a tar in zstd.
func (c Client) Archive(ctx context.Context, slot int, w io.Writer) error {
	return c.wrap(c.Caller.Copy(ctx, Prefix+clusterctrl.SlotName(slot)+"/archive", w))
}

// Drop throws away what is kept of a slot.
func (c Client) Drop(ctx context.Context, slot int) error {
	return c.wrap(c.Caller.Call(ctx, http.MethodDelete, Prefix+clusterctrl.SlotName(slot), nil))
}

func (c Client) wrap(err error) error {
	if err != nil {
		return fmt.Errorf("what outlives new roots: %w", err)
	}
	return nil
}
