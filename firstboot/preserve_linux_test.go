package firstboot

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"hatchery/firstboot/preserve"
	"hatchery/internal/enrol"
	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
)

// A node that is refused what was kept for it asks again: to go on without would be the end
// of it. But for one whose certificate is never let in again, which the next step tells.
func TestRefusedWhatWasKept(t *testing.T) {
	for _, test := range []struct {
		code  enrol.Code
		final bool
	}{
		{enrol.WrongAddress, false},
		{enrol.Clone, false},
		{enrol.UnknownSlot, false}, // until the controller's image is built with it
		{kept.Failed, false},
		{enrol.Revoked, true},
		{enrol.StaleGeneration, true},
	} {
		t.Run(string(test.code), func(t *testing.T) {
			refuses := true
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case refuses:
					enrol.WriteError(w, &enrol.Error{Code: test.code, Detail: "not now"})
				case r.Method == http.MethodGet:
					enrol.WriteJSON(w, http.StatusOK, &kept.Offer{})
				default:
					enrol.WriteJSON(w, http.StatusOK, struct{}{})
				}
			}))
			defer server.Close()
			node := &nodefile.Node{Cluster: "homelab", Name: "p2", Slot: 2}
			e := &environment{ctx: t.Context(), node: node}
			step := e.restoreStep(preserve.New(preserve.Options{
				Node: node, StateDir: t.TempDir(), DockerRoot: t.TempDir(), Log: slog.New(slog.DiscardHandler),
				HTTP: server.Client, URL: func(path string) string { return server.URL + path },
			}))
			tell := func(string, ...any) {}
			_, err := step.Run(t.Context(), tell)
			done, _, checked := step.Check(t.Context())
			if (err == nil) != test.final || done != test.final || checked != nil {
				t.Fatalf("refused, it gives %v, and is done: %t, %v", err, done, checked)
			}
			if test.final {
				return
			}
			refuses = false
			if _, err := step.Run(t.Context(), tell); err != nil {
				t.Fatal(err)
			}
			if done, _, err := step.Check(t.Context()); !done || err != nil {
				t.Errorf("not refused any more, it is done: %t, %v", done, err)
			}
		})
	}
}
