package enrol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// How much a body may have, in bytes.
const (
	MaxRequest = 16 << 10 // of a join or a status
	MaxAnswer  = 4 << 20  // the cluster of 252 slots with labels
)

// bodyTime is how long the client may take to send a small body.
const bodyTime = time.Minute

// ReadBody reads a request's body of at most so many bytes into v. It gives an
// *Error for what is not JSON, is not one value, or is too long.
func ReadBody(w http.ResponseWriter, r *http.Request, v any, most int64) error {
	// It ends with the body: the server goes on to read, to see a client go.
	// Of a body that did not arrive the server wants the rest before it
	// answers, and waits no longer than this for it.
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(bodyTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return &Error{Code: BadRequest, Detail: "the connection is gone: " + tidy(err.Error())}
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: BadRequest, Detail: fmt.Sprintf("the body has more than %d bytes", most)}
	case err != nil:
		return &Error{Code: BadRequest, Detail: "the body did not arrive: " + tidy(err.Error())}
	}
	_ = control.SetReadDeadline(time.Time{})
	if err := json.Unmarshal(data, v); err != nil {
		return &Error{Code: BadRequest, Detail: "the body is not what it should be: " + tidy(err.Error())}
	}
	return nil
}

// WriteJSON writes a value as the answer.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		// Only a value that JSON cannot express gets here, and bodies can.
		http.Error(w, "cannot encode the answer", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store") // an answer may hold a token, and none is worth keeping
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	// What cannot be written, nobody is there to read.
	_, _ = w.Write(b.Bytes())
}

// WriteError writes an error as the answer. Without a status it gets its
// code's, and a 503 without a time gets one: a node must not come back at
// once.
func WriteError(w http.ResponseWriter, e *Error) {
	body := *e
	if body.Status == 0 {
		body.Status = body.Code.Status()
	}
	if body.Status == http.StatusServiceUnavailable && body.RetryAfterS <= 0 {
		body.RetryAfterS = defaultRetryS
	}
	if body.RetryAfterS > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(body.RetryAfterS))
	}
	WriteJSON(w, body.Status, &body)
}

// defaultRetryS is when to come back after a 503, in seconds.
const defaultRetryS = 5

// Status is the HTTP status of an error with this code.
func (c Code) Status() int {
	switch c {
	case UnknownSlot, Revoked, StaleGeneration, WrongAddress:
		return http.StatusForbidden
	case Clone:
		return http.StatusConflict
	case ClockUntrusted, SwarmNotReady:
		return http.StatusServiceUnavailable
	case BadRequest:
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// maxRetry bounds what a controller may ask a node to wait: a node that was
// told nonsense asks again within the hour.
const maxRetry = time.Hour

// RetryAfter is how long the other end wants to be left alone, 0 where it
// does not say.
func (e *Error) RetryAfter() time.Duration { return bounded(e.RetryAfterS) }

// RetryAfter is how long to wait before the next call, 0 where it does not
// say.
func (a *JoinAnswer) RetryAfter() time.Duration { return bounded(a.RetryAfterS) }

// Next is when the controller wants to hear the next time, 0 where it does not
// say.
func (a *StatusAnswer) Next() time.Duration { return bounded(a.NextS) }

func bounded(seconds int) time.Duration {
	return time.Duration(min(max(seconds, 0), int(maxRetry/time.Second))) * time.Second
}
