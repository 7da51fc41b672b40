package preserve_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/kept"
)

// direct gives requests to a handler.
type direct struct{ to http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if s, ok := d.to.(*shelf); ok && s.cut != nil {
		if err := s.cut(r); err != nil {
			return nil, err
		}
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	d.to.ServeHTTP(w, r)
	return w.Result(), nil
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET " + kept.Path:
		enrol.WriteJSON(w, http.StatusOK, &s.offer)
	case "GET " + kept.PathStream:
		content := s.archive
		if s.truth != nil {
			content = s.truth
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = io.Copy(w, bytes.NewReader(content))
	case "POST " + kept.PathRestored:
		s.receipt = new(kept.Receipt)
		if err := json.NewDecoder(r.Body).Decode(s.receipt); err != nil {
			panic(err)
		}
		enrol.WriteJSON(w, http.StatusOK, struct{}{})
	default:
		enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.BadRequest, Detail: "there is no such call"})
	}
}

// keptOf is a controller that has kept what a node has.
func keptOf(t testing.TB, n *node) *shelf {
	t.Helper()
	plan, err := n.keeper().Plan(t.Context())
	must(t, err)
	s := new(shelf)
	var b bytes.Buffer
	digest, err := n.keeper().Pack(t.Context(), &b, plan.Roots, 1<<30)
	must(t, err)
	s.archive = b.Bytes()
	s.offer = kept.Offer{Digest: digest, Bytes: int64(b.Len()), Saved: time.Now(), Roots: plan.Roots}
	return s
}
