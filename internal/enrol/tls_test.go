package enrol_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
)

// shake has two ends meet, the client with its configuration and the server
// with its own, and gives what each made of the other.
func shake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(time.Minute))
		conn := tls.Server(raw, server)
		_, err = io.WriteString(conn, "hello")
		if err == nil {
			_, err = io.ReadAll(conn) // to its end, so that the client's alert is seen
		}
		done <- err
	}()
	raw, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	raw.SetDeadline(time.Now().Add(time.Minute))
	conn := tls.Client(raw, client)
	// With TLS 1.3 a client knows whether it was accepted when it has read.
	if _, clientErr = io.ReadFull(conn, make([]byte, 5)); clientErr == nil {
		conn.CloseWrite()
		if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("version %x", v)
		}
		if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
			t.Errorf("protocol %q", p)
		}
		if conn.ConnectionState().DidResume {
			t.Error("the session was resumed")
		}
	}
	raw.Close()
	return clientErr, <-done
}

func TestTLS(t *testing.T) {
	homelab, impostors := enroltest.NewCluster(t, "homelab"), enroltest.NewCluster(t, "homelab")
	controller, p1, p2 := homelab.Slot(t, 0), homelab.Slot(t, 1), homelab.Slot(t, 2)
	year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
	a := enroltest.NewAuthority(t, year(2000), year(2100))
	of := func(slot int, change func(*x509.Certificate)) *enrol.Identity { return a.Identity(t, slot, change) }
	fine := of(2, nil)

	older := func(c *tls.Config) *tls.Config {
		c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		return c
	}
	nameless := func(c *tls.Config) *tls.Config { c.Certificates = nil; return c }
	// forged shows a certificate that was changed after it was signed.
	forged := func(c *tls.Config) *tls.Config {
		der := append([]byte(nil), c.Certificates[0].Certificate[0]...)
		der[len(der)-1] ^= 1
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: c.Certificates[0].PrivateKey}}
		return c
	}
	// stolen shows a certificate whose key it has not.
	stolen := func(c *tls.Config, of *enrol.Identity) *tls.Config {
		c.Certificates = []tls.Certificate{{Certificate: of.Certificate.Certificate, PrivateKey: c.Certificates[0].PrivateKey}}
		return c
	}
	// blind does not look at the server at all.
	blind := func(c *tls.Config) *tls.Config { c.InsecureSkipVerify, c.VerifyConnection = true, nil; return c }

	for _, test := range []struct {
		summary        string
		client, server *tls.Config
		want           string // "" for a connection, else of either end's error
	}{
		{"a node calls the controller", enrol.ClientTLS(p1, 0), enrol.ServerTLS(controller), ""},
		{"the controller calls a node", enrol.ClientTLS(controller, 2), enrol.ServerTLS(p2), ""},
		{"a node poses as the controller", enrol.ClientTLS(p1, 0), enrol.ServerTLS(p2), "172.19.181.254"},
		{"a node poses as another", enrol.ClientTLS(controller, 1), enrol.ServerTLS(p2), "172.19.181.1"},
		{"another cluster's controller", enrol.ClientTLS(p1, 0), enrol.ServerTLS(impostors.Slot(t, 0)), "unknown authority"},
		{"another cluster's node", blind(enrol.ClientTLS(impostors.Slot(t, 1), 0)), enrol.ServerTLS(controller), "unknown authority"},
		{"no client certificate", nameless(enrol.ClientTLS(p1, 0)), enrol.ServerTLS(controller), "didn't provide a certificate"},
		{"a forged client certificate", blind(forged(enrol.ClientTLS(p1, 0))), enrol.ServerTLS(controller), "certificate"},
		{"a forged server certificate", enrol.ClientTLS(p1, 0), forged(enrol.ServerTLS(controller)), "certificate"},
		{"a stolen client certificate", stolen(enrol.ClientTLS(p1, 0), p2), enrol.ServerTLS(controller), "invalid signature"},
		{"a stolen server certificate", enrol.ClientTLS(p1, 0), stolen(enrol.ServerTLS(p2), controller), "invalid signature"},
		{"TLS 1.2 from a client", older(enrol.ClientTLS(p1, 0)), enrol.ServerTLS(controller), "unsupported versions"},
		{"TLS 1.2 from a server", enrol.ClientTLS(p1, 0), older(enrol.ServerTLS(controller)), "protocol version"},

		{"an own authority's", enrol.ClientTLS(fine, 0), enrol.ServerTLS(of(0, nil)), ""},
		{"a client with a server's certificate", enrol.ClientTLS(fine, 0), enrol.ServerTLS(of(0, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})), "incompatible key usage"},
		{"the right address, the wrong slot", enrol.ClientTLS(fine, 0), enrol.ServerTLS(of(0, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "hatchery", Host: "homelab", Path: "/slot/3/generation/1"}}
		})), "the server is p3"},
		{"the right slot, the wrong address", enrol.ClientTLS(fine, 0), enrol.ServerTLS(of(0, func(c *x509.Certificate) {
			c.IPAddresses = []net.IP{clusterctrl.SlotAddr(3).AsSlice()}
		})), "172.19.181.254"},
		{"another cluster's name under one authority", enrol.ClientTLS(fine, 0), enrol.ServerTLS(of(0, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "hatchery", Host: "other", Path: "/slot/0/generation/1"}}
		})), "this is the cluster homelab"},
		{"a client of another cluster's name under one authority", blind(enrol.ClientTLS(of(2, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "hatchery", Host: "other", Path: "/slot/2/generation/1"}}
		}), 0)), enrol.ServerTLS(of(0, nil)), "this is the cluster homelab"},
		{"two bundles, while one authority follows the other",
			enrol.ClientTLS(both(p1, fine), 0), enrol.ServerTLS(both(of(0, nil), controller)), ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			clientErr, serverErr := shake(t, test.client, test.server)
			if test.want == "" {
				if clientErr != nil || serverErr != nil {
					t.Errorf("client: %v; server: %v", clientErr, serverErr)
				}
				return
			}
			if clientErr == nil {
				t.Errorf("the client was served; server: %v", serverErr)
			}
			if all := errors.Join(clientErr, serverErr); !strings.Contains(all.Error(), test.want) {
				t.Errorf("%v; want %q", all, test.want)
			}
		})
	}
}

// TestNoResumption: every connection shows its certificate, also where a
// client would rather go on with an old session.
func TestNoResumption(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	client, server := enrol.ClientTLS(homelab.Slot(t, 1), 0), enrol.ServerTLS(homelab.Slot(t, 0))
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 {
		if clientErr, serverErr := shake(t, client, server); clientErr != nil || serverErr != nil {
			t.Errorf("client: %v; server: %v", clientErr, serverErr)
		}
	}
}

// both is an identity that trusts another's authorities as well.
func both(id, other *enrol.Identity) *enrol.Identity {
	wide := *id
	wide.Authorities = append(append([]*x509.Certificate(nil), id.Authorities...), other.Authorities...)
	return &wide
}

// TestPeerOfRequest asks a server who called, and a request that came
// otherwise.
func TestPeerOfRequest(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	s := serve(t, homelab.Slot(t, 0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := enrol.PeerOfRequest(r)
		if err != nil || r.ProtoMajor != 1 {
			t.Errorf("HTTP/%d, %v", r.ProtoMajor, err)
		}
		enrol.WriteJSON(w, http.StatusOK, enrol.ClusterView{Cluster: p.String()})
	}))
	for slot, want := range map[int]string{2: "p2, generation 1 of homelab", 0: "controller, generation 1 of homelab"} {
		view, err := clientOf(s, homelab.Slot(t, slot)).Cluster(background(t))
		if err != nil || view.Cluster != want {
			t.Errorf("%+v, %v", view, err)
		}
	}
	if p, err := enrol.PeerOfRequest(&http.Request{}); err == nil {
		t.Errorf("a request without TLS is of %s", p)
	}
	unverified := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{homelab.Slot(t, 2).Certificate.Leaf}}
	if p, err := enrol.PeerOfRequest(&http.Request{TLS: unverified}); err == nil {
		t.Errorf("an unverified certificate is of %s", p)
	}
}
