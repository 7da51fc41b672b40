package reimage

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/store"
)

// The codes of what nodes are refused with, beside enrol.BadRequest.
const (
	// Nothing says that there is nothing to be written, or something else by now: 404.
	Nothing enrol.Code = "nothing-to-write"
	// NotYet says that the image is being got ready: 503.
	NotYet enrol.Code = "image-not-ready"
	// TooMany says that pieces are under way already: 429.
	TooMany enrol.Code = "too-many-calls"
)

const (
	maxStreams = 2        // of pieces, of one slot at a time
	maxBody    = 64 << 10 // of a Wanted, in bytes: a thousand runs
	// patience is how long a node's call waits for an image that is being got ready.
	patience = 20 * time.Second
	// againS and personS are when to come back, in seconds: soon, and after somebody has
	// done something.
	againS, personS = 10, 60
)

// Calls are what nodes may call, for controller.Options.Calls.
func (s *Service) Calls() map[string]func(w http.ResponseWriter, r *http.Request, slot int) {
	return map[string]func(w http.ResponseWriter, r *http.Request, slot int){
		"GET " + wire.PathImage:                                    s.imageCall,
		"GET " + wire.PathImage + "/{digest}" + wire.PathDigests:   s.digestsCall,
		"POST " + wire.PathImage + "/{digest}" + wire.PathPieces:   s.piecesCall,
		"POST " + wire.PathImage + "/{digest}" + wire.PathProgress: s.progressCall,
	}
}

func refused(w http.ResponseWriter, status int, code enrol.Code, detail string, afterS int) {
	enrol.WriteError(w, &enrol.Error{Status: status, Code: code, Detail: detail, RetryAfterS: afterS})
}

func nothing(w http.ResponseWriter) {
	refused(w, http.StatusNotFound, Nothing, "nothing is to be written to this slot's card", 0)
}

// advance brings a record further, and keeps it. The caller holds the lock.
func (s *Service) advance(slot int, r *record, phase string) {
	if rank[phase] <= rank[r.Phase] {
		return
	}
	r.Phase = phase
	if rank[phase] >= rank[Writing] {
		r.Held = nil // it does not hold that any more
	}
	if err := s.save(); err != nil {
		s.o.Log.Error("how far a card is cannot be kept", "slot", slot, "error", err)
	}
}

// imageCall is GET wire.PathImage.
func (s *Service) imageCall(w http.ResponseWriter, req *http.Request, slot int) {
	look, begun := req.URL.Query().Has(wire.QueryLook), req.URL.Query().Has(wire.QueryBegun)
	s.mu.Lock()
	r := s.records[slot]
	if r == nil && begun && !look {
		var err error
		if r, err = s.adopt(slot); err != nil {
			s.mu.Unlock()
			refused(w, http.StatusServiceUnavailable, NotYet, "this slot's card is begun, and what it is to hold is not known: "+err.Error(), personS)
			return
		}
	}
	if r == nil {
		s.mu.Unlock()
		nothing(w)
		return
	}
	if look {
		operation, done := r.Operation, r.Phase == Done
		s.mu.Unlock()
		if done {
			nothing(w) // the new root's agent asks
			return
		}
		enrol.WriteJSON(w, http.StatusOK, &wire.Image{Operation: operation})
		return
	}
	r.lastNode = time.Now()
	if r.progress.State == wire.Booting {
		// It starts from the beginning, and is not at its boot partition any more.
		r.progress = wire.Progress{State: wire.Comparing, Attempt: r.progress.Attempt}
	}
	if begun {
		s.advance(slot, r, Writing)
	} else {
		s.advance(slot, r, Asked)
	}
	r.poke()
	p := s.prepare(r)
	s.mu.Unlock()

	select {
	case <-p.done:
	case <-req.Context().Done():
		return
	case <-time.After(patience):
		refused(w, http.StatusServiceUnavailable, NotYet, "the image is being got ready", againS)
		return
	}
	if p.err != nil {
		s.o.Log.Error("a node wants its image, and it cannot be had", "slot", slot, "error", p.err)
		s.instead(slot, r, p.err)
		s.mu.Lock()
		r.trouble.failed("the image cannot be had: "+hearsay.Line(p.err.Error(), 2*wire.MaxText), "")
		r.poke()
		s.mu.Unlock()
		refused(w, http.StatusServiceUnavailable, NotYet, "the image cannot be had: "+hearsay.Line(p.err.Error(), 2*wire.MaxText), personS)
		return
	}
	s.mu.Lock()
	said := *p.said
	said.Operation = r.Operation
	s.mu.Unlock()
	enrol.WriteJSON(w, http.StatusOK, &said)
}

// adopt makes a record for a node whose card is begun, and of which nothing is known here:
// it gets what its slot is to have. The caller holds the lock.
func (s *Service) adopt(slot int) (*record, error) {
	root, err := s.o.Store.Wanted(slot)
	if err != nil {
		return nil, err
	}
	r := newRecord(kept{Operation: "taken up", Root: *root, Phase: Writing, Since: time.Now().UTC().Truncate(time.Second)})
	r.armedAt = time.Now()
	s.records[slot] = r
	if err := s.save(); err != nil {
		delete(s.records, slot)
		s.noteUnfinished()
		return nil, err
	}
	s.o.Log.Warn("a node writes its card, and nobody knows why any more: it gets what its slot is to have", "slot", slot)
	return r, nil
}

// instead gives a card that is begun another image, where its own is gone from the store.
func (s *Service) instead(slot int, r *record, err error) {
	if !errors.Is(err, store.ErrMissing) {
		return
	}
	root, werr := s.o.Store.Wanted(slot)
	s.mu.Lock()
	defer s.mu.Unlock()
	if werr != nil || root.Same(&r.Root) || s.records[slot] != r || r.Phase == Done {
		return
	}
	s.o.Log.Warn("the image that a card was to have is gone: it gets what its slot is to have now", "slot", slot)
	r.Root, r.prep, r.trouble = *root, nil, trouble{}
	if err := s.save(); err != nil {
		s.o.Log.Error("how far a card is cannot be kept", "slot", slot, "error", err)
	}
	s.tidy()
}

// current gives the record of a call that names an image, and the image held on to; where
// it gives none, the call was answered.
func (s *Service) current(w http.ResponseWriter, req *http.Request, slot int) (*record, *preparation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[slot]
	if r == nil {
		nothing(w)
		return nil, nil
	}
	r.lastNode = time.Now()
	p := s.prepare(r)
	switch {
	case !p.settled() || p.err != nil:
		refused(w, http.StatusServiceUnavailable, NotYet, "the image is being got ready", againS)
		return nil, nil
	case req.PathValue("digest") != p.said.List:
		refused(w, http.StatusNotFound, Nothing, "this slot's card is to hold another image: ask for it", 0)
		return nil, nil
	}
	s.use(p)
	return r, p
}

// digestsCall is GET …/digests.
func (s *Service) digestsCall(w http.ResponseWriter, req *http.Request, slot int) {
	_, p := s.current(w, req, slot)
	if p == nil {
		return
	}
	defer s.unuse(p)
	out := begin(w, int64(len(p.wire)))
	defer out.End()
	_, _ = out.Write(p.wire) // a node that goes away asks again
}

// piecesCall is POST …/pieces.
func (s *Service) piecesCall(w http.ResponseWriter, req *http.Request, slot int) {
	var wanted wire.Wanted
	if err := enrol.ReadBody(w, req, &wanted, maxBody); err != nil {
		badRequest(w, err)
		return
	}
	r, p := s.current(w, req, slot)
	if p == nil {
		return
	}
	defer s.unuse(p)
	if _, err := wanted.Pieces(p.list); err != nil {
		badRequest(w, err)
		return
	}
	s.mu.Lock()
	if r.streams >= maxStreams {
		s.mu.Unlock()
		refused(w, http.StatusTooManyRequests, TooMany, "pieces are under way already", againS)
		return
	}
	r.streams++
	s.advance(slot, r, Writing)
	r.poke()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		r.streams--
		s.mu.Unlock()
	}()

	var total int64
	for _, run := range wanted.Runs {
		for i := run[0]; i < run[0]+run[1]; i++ {
			_, n := p.list.Span(int(i))
			total += int64(n)
		}
	}
	out := begin(w, total)
	defer out.End()
	buf := make([]byte, wire.Piece)
	for _, run := range wanted.Runs {
		for i := run[0]; i < run[0]+run[1]; i++ {
			at, n := p.list.Span(int(i))
			if err := readFull(p.image, buf[:n], at); err != nil {
				// The answer is cut off: its length was told.
				s.o.Log.Error("an image cannot be read", "slot", slot, "error", err)
				return
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return // it comes again
			}
			s.mu.Lock()
			r.lastNode = time.Now()
			s.mu.Unlock()
		}
	}
}

// progressCall is POST …/progress.
func (s *Service) progressCall(w http.ResponseWriter, req *http.Request, slot int) {
	var progress wire.Progress
	err := enrol.ReadBody(w, req, &progress, enrol.MaxRequest)
	if err == nil {
		err = progress.Check()
	}
	if err != nil {
		badRequest(w, err)
		return
	}
	progress.Detail = hearsay.Line(progress.Detail, 2*wire.MaxText)
	r, p := s.current(w, req, slot)
	if p == nil {
		return
	}
	defer s.unuse(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[slot] != r {
		nothing(w)
		return
	}
	if progress.State == wire.Failed && (r.progress.State != wire.Failed || r.progress.Detail != progress.Detail) {
		s.o.Log.Warn("a node fails to write its card, and tries again", "slot", slot, "attempt", progress.Attempt, "reason", progress.Detail)
	}
	r.progress = progress
	r.trouble.heard(&progress)
	switch progress.State {
	case wire.Writing, wire.Verifying, wire.Booting:
		s.advance(slot, r, Writing)
	case wire.Done:
		r.doneAt = time.Now()
		s.advance(slot, r, Done)
	}
	r.poke()
	enrol.WriteJSON(w, http.StatusOK, struct{}{})
}

func badRequest(w http.ResponseWriter, err error) {
	var e *enrol.Error
	if !errors.As(err, &e) {
		e = &enrol.Error{Code: enrol.BadRequest, Detail: err.Error()}
	}
	enrol.WriteError(w, e)
}

// begin begins an answer of bytes that may take its time, but not stand still.
func begin(w http.ResponseWriter, length int64) *enrol.Moving {
	// The request's own limit is over with its body.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	w.WriteHeader(http.StatusOK)
	return enrol.NewMoving(w)
}
