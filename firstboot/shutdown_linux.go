package firstboot

import (
	"context"
	"net/http"
	"time"

	"hatchery/internal/enrol"
)

// shutdownPause is how long a node waits before it shuts down, so that its answer
// gets away.
const shutdownPause = 500 * time.Millisecond

// shutdownCall is POST /v1/shutdown: the controller is about to cut the power, and
// what is not written yet would be lost.
func (e *environment) shutdownCall() http.Handler {
	return enrol.ControllerOnly(e.identity.Peer.Cluster, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusMethodNotAllowed, Code: enrol.BadRequest, Detail: "it is asked for with POST"})
			return
		}
		if e.SkipMachine {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusConflict, Code: enrol.BadRequest, Detail: "this agent has no machine of its own"})
			return
		}
		w.WriteHeader(http.StatusAccepted)
		e.Log.InfoContext(e.ctx, "the controller has this node shut down")
		time.AfterFunc(shutdownPause, func() {
			ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
			defer cancel()
			if err := e.Units.StartUnit(ctx, "poweroff.target"); err != nil && e.ctx.Err() == nil {
				e.Log.ErrorContext(e.ctx, "cannot shut down", "error", err)
			}
		})
	}))
}
