package controller_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// Whatever a node with a valid certificate sends, it gets an answer, and no
// other slot's entry is touched.
func FuzzBodies(f *testing.F) {
	for _, body := range []string{
		`{"boot_id":"b","agent_version":"1","swarm":{"state":"inactive"}}`,
		`{"boot_id":"b","seq":1,"step":"link","state":"done","since":"2026-01-01T00:00:00Z","swarm":{"state":"active","node_id":"node1","cluster_id":"swarm1"}}`,
		`{"boot_id":"b","seq":-9223372036854775808,"since":"9999-01-01T00:00:00Z","detail":"\u0000\n","swarm":{"state":"active","node_id":"manager"}}`,
		`{"slot":1,"boot_id":"b"}`, `{"slot":2}`, `null`, `[`, "\xff",
	} {
		f.Add(true, []byte(body))
		f.Add(false, []byte(body))
	}
	c := newCluster(f, 2)
	files, err := c.store.Target("p2", 2, "hostp2")
	if err != nil {
		f.Fatal(err)
	}
	certificate := c.parsed(files).Certificate.Leaf
	f.Fuzz(func(t *testing.T, join bool, body []byte) {
		e := newEngine()
		if _, err := e.join(e.token(), address(1).String(), "hostp1"); err != nil {
			t.Fatal(err)
		}
		e.edit("node1", func(n *swarm.Node) { n.Labels = map[string]string{"hatchery.slot": "p1"}; n.Availability = "active" })
		before := e.list()
		o := c.options
		o.Engine, o.StateDir = e, t.TempDir()
		handler, settle, err := controller.Calls(o)
		if err != nil {
			t.Fatal(err)
		}
		path := enrol.PathStatus
		if join {
			path = enrol.PathJoin
		}
		r := httptest.NewRequest("POST", path, bytes.NewReader(body))
		r.RemoteAddr = address(2).String() + ":1"
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}, VerifiedChains: [][]*x509.Certificate{{certificate}}}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK && w.Code/100 != 4 {
			t.Errorf("%q is answered %d %s", body, w.Code, w.Body)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := settle(ctx); err != nil {
			t.Error(err)
		}
		if after := e.list(); after != before {
			t.Errorf("%q made of the list\n%s\nthis:\n%s", body, before, after)
		}
	})
}
