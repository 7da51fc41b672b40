package reimager_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/reimage"
	"hatchery/netboot/reimager"
)

// TestCaller writes a card over a real connection: with a clock that is decades off, an
// answer that is an error, and one that ends too soon.
func TestCaller(t *testing.T) {
	cluster := enroltest.NewCluster(t, "c")
	image := makeImage(2, full, usual)
	list := newController(image, usual.bootStart, usual.bootSize, 8).list
	said := list.Image("test")
	var mu sync.Mutex
	var states []string
	stumbled := map[string]bool{}
	once := func(name string) bool {
		mu.Lock()
		defer mu.Unlock()
		was := stumbled[name]
		stumbled[name] = true
		return !was
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrol.PathTime, func(w http.ResponseWriter, r *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, &enrol.TimeAnswer{Nonce: r.URL.Query().Get("nonce"), UnixNanos: time.Now().UnixNano()})
	})
	mux.HandleFunc("GET "+reimage.PathImage, func(w http.ResponseWriter, r *http.Request) {
		if once("image") {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusServiceUnavailable, Code: "not-yet", Detail: "the image is being got ready", RetryAfterS: 1})
			return
		}
		enrol.WriteJSON(w, http.StatusOK, said)
	})
	mux.HandleFunc("GET "+reimage.PathImage+"/{digest}"+reimage.PathDigests, func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("digest") != said.List {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Write(reimage.AppendList(nil, list))
	})
	mux.HandleFunc("POST "+reimage.PathImage+"/{digest}"+reimage.PathPieces, func(w http.ResponseWriter, r *http.Request) {
		var wanted reimage.Wanted
		if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
			t.Error(err)
		}
		if _, err := wanted.Pieces(list); err != nil {
			t.Error(err)
		}
		var b bytes.Buffer
		for _, run := range wanted.Runs {
			for i := run[0]; i < run[0]+run[1]; i++ {
				at, n := list.Span(int(i))
				b.Write(image[at : at+int64(n)])
			}
		}
		if once("pieces") {
			b.Truncate(b.Len() / 2)
		}
		io.Copy(w, &b)
	})
	mux.HandleFunc("POST "+reimage.PathImage+"/{digest}"+reimage.PathProgress, func(w http.ResponseWriter, r *http.Request) {
		var p reimage.Progress
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil || p.Check() != nil {
			t.Errorf("%+v: %v", p, err)
		}
		mu.Lock()
		defer mu.Unlock()
		states = append(states, p.State)
		w.WriteHeader(http.StatusNoContent)
	})
	service := enroltest.Serve(t, cluster.Slot(t, 0), mux, nil)
	files := cluster.Files(t, 2)
	o := order()
	o.Controller, o.Key, o.Certificate, o.CA = service.Where.Addr().String(), string(files.Key), string(files.Certificate), string(files.CA)
	o.Time = time.Unix(0, 0)
	caller, err := reimager.NewCaller(o, enrol.ClientOptions{Port: service.Where.Port()})
	if err != nil {
		t.Fatal(err)
	}
	card := newCard(armed(t, makeImage(1, full, usual), full))
	if err := reimager.Run(t.Context(), card, o, caller, quick()); err != nil {
		t.Fatal(err)
	}
	if have, want := used(card.medium, list), used(image, list); !bytes.Equal(have, want) {
		t.Error("the card has another content than the image")
	}
	all := strings.Join(states, " ")
	for _, state := range []string{reimage.Comparing, reimage.Writing, reimage.Failed, reimage.Verifying, reimage.Booting, reimage.Done} {
		if !strings.Contains(all, state) {
			t.Errorf("the controller was not told %q, but %s", state, all)
		}
	}
	other := sha256.Sum256(nil)
	if _, err := caller.List(t.Context(), hex.EncodeToString(other[:])); !errors.Is(err, reimager.ErrChanged) {
		t.Errorf("a list that is not there: %v", err)
	}
	o.Slot = 3
	if _, err := reimager.NewCaller(o, enrol.ClientOptions{}); err == nil || !strings.Contains(err.Error(), "slot 3") {
		t.Errorf("another slot's identity is taken: %v", err)
	}
}
