package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// A watchdog cancels a request from which nothing has come for some time.
type watchdog struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration
	timer  *time.Timer
}

func (c *Client) watch(ctx context.Context) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := fmt.Errorf("nothing came for %v", c.Stall)
	return ctx, &watchdog{ctx, cancel, c.Stall, time.AfterFunc(c.Stall, func() { cancel(stalled) })}
}

// pat says that something came.
func (w *watchdog) pat() { w.timer.Reset(w.stall) }

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// blame names what ended a body, which may be before its end.
func (w *watchdog) blame(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return &passing{err: cause}
	}
	if errors.Is(err, io.EOF) {
		return err
	}
	return &passing{err: &discreetError{err}}
}
