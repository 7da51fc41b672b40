package arm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"hatchery/internal/enrol"
	"hatchery/internal/reimage"
)

// The codes of what an arming is refused with, beside enrol.BadRequest.
const (
	// NotPrepared says that the card has to be flashed by hand once.
	NotPrepared enrol.Code = "not-prepared"
	// NoCard says that the node has no card to be written.
	NoCard enrol.Code = "no-card"
	// Broken says that the card could not be changed.
	Broken enrol.Code = "card-failed"
)

// restartLater is how long after the answer the machine is started again: the answer has to
// be on its way.
const restartLater = time.Second

// Handler serves reimage.PathArm, for the cluster's controller alone. The server has
// enrol.ServerTLS. What follows on an answer ends with ctx.
func (a *Armer) Handler(ctx context.Context) http.Handler {
	refusals := rate.NewLimiter(rate.Every(10*time.Second), 10)
	refuse := func(w http.ResponseWriter, r *http.Request, e *enrol.Error) {
		if refusals.Allow() {
			a.o.Log.Warn("a call to have the card written was refused", "from", r.RemoteAddr, "error", e)
		}
		enrol.WriteError(w, e)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+reimage.PathArm, func(w http.ResponseWriter, r *http.Request) {
		peer, err := enrol.PeerOfRequest(r)
		if err == nil && (peer.Slot != 0 || peer.Cluster != a.o.Node.Cluster) {
			err = fmt.Errorf("the card is written for the controller of %s alone, and this is %s", a.o.Node.Cluster, peer)
		}
		if err != nil {
			refuse(w, r, &enrol.Error{Status: http.StatusForbidden, Code: enrol.BadRequest, Detail: err.Error()})
			return
		}
		var body reimage.Arm
		if err := enrol.ReadBody(w, r, &body, enrol.MaxRequest); err != nil {
			var e *enrol.Error
			if !errors.As(err, &e) {
				e = &enrol.Error{Code: enrol.BadRequest, Detail: err.Error()}
			}
			refuse(w, r, e)
			return
		}
		if err := body.Check(); err != nil {
			refuse(w, r, &enrol.Error{Code: enrol.BadRequest, Detail: err.Error()})
			return
		}
		if err := a.Arm(body.Operation); err != nil {
			e := &enrol.Error{Status: http.StatusInternalServerError, Code: Broken, Detail: err.Error()}
			var unprepared *NotPreparedError
			switch {
			case errors.As(err, &unprepared):
				e.Status, e.Code = http.StatusConflict, NotPrepared
			case errors.Is(err, ErrNoCard):
				e.Status, e.Code = http.StatusConflict, NoCard
			}
			refuse(w, r, e)
			return
		}
		a.o.Log.Info("the card is written at the next start, which is now", "operation", body.Operation)
		enrol.WriteJSON(w, http.StatusAccepted, &reimage.Armed{BootID: a.o.BootID})
		go a.restart(ctx)
	})
	return mux
}

// restart starts the machine again. Where that fails the controller hears this boot go on,
// and asks again.
func (a *Armer) restart(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(restartLater):
	}
	if err := a.o.Restart(ctx); err != nil && ctx.Err() == nil {
		a.o.Log.Error("the card is to be written, and the machine cannot be started again: reboot it by hand", "error", err)
	}
}
