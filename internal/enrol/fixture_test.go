package enrol_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
)

// A cluster gives identities as the builder does.
type cluster struct{ store *identity.Store }

func newCluster(t testing.TB, name string) cluster {
	t.Helper()
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), name)
	if err != nil {
		t.Fatal(err)
	}
	return cluster{store}
}

func targetName(slot int) string {
	if slot == 0 {
		return "controller"
	}
	return clusterctrl.SlotName(slot)
}

func (c cluster) files(t testing.TB, slot int) *identity.Identity {
	t.Helper()
	id, err := c.store.Target(targetName(slot), slot, "host"+targetName(slot))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (c cluster) slot(t testing.TB, slot int) *enrol.Identity {
	t.Helper()
	files := c.files(t, slot)
	return parsed(t, files.Key, files.Certificate, files.CA)
}

func parsed(t testing.TB, key, certificate, ca []byte) *enrol.Identity {
	t.Helper()
	id, err := enrol.NewIdentity(key, certificate, ca)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// An authority issues certificates that the builder never would.
type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newAuthority(t testing.TB, from, to time.Time) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{key, c}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue is a slot's files; change alters the certificate before it is signed.
func (a authority) issue(t testing.TB, uri string, address netip.Addr, change func(*x509.Certificate)) (key, certificate, ca []byte) {
	t.Helper()
	own := newKey(t)
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(42), NotBefore: a.certificate.NotBefore, NotAfter: a.certificate.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{u}, IPAddresses: []net.IP{address.AsSlice()},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &own.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func (a authority) identity(t testing.TB, slot int, change func(*x509.Certificate)) *enrol.Identity {
	t.Helper()
	address := clusterctrl.ControllerAddr()
	if slot > 0 {
		address = clusterctrl.SlotAddr(slot)
	}
	return parsed3(t)(a.issue(t, fmt.Sprintf("hatchery://homelab/slot/%d/generation/1", slot), address, change))
}

func parsed3(t testing.TB) func(key, certificate, ca []byte) *enrol.Identity {
	return func(key, certificate, ca []byte) *enrol.Identity { return parsed(t, key, certificate, ca) }
}

// A service is a server of the calls, and what it said of connections.
type service struct {
	where netip.AddrPort
	mu    sync.Mutex
	log   strings.Builder
	conns int // that were accepted
}

func (s *service) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *service) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *service) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// serve runs a server with an identity until the test ends.
func serve(t testing.TB, id *enrol.Identity, handler http.Handler) *service {
	t.Helper()
	return serveAt(t, id, handler, nil)
}

// serveAt is serve with a clock that certificates are judged by.
func serveAt(t testing.TB, id *enrol.Identity, handler http.Handler, now func() time.Time) *service {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{where: netip.MustParseAddrPort(listener.Addr().String())}
	server := enrol.NewServer(id, handler, slog.New(slog.NewTextHandler(s, nil)))
	server.TLSConfig.Time = now
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
		}
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return s
}

func (s *service) client(id *enrol.Identity, options ...enrol.ClientOptions) *enrol.Client {
	o := enrol.ClientOptions{}
	if len(options) > 0 {
		o = options[0]
	}
	o.Port = s.where.Port()
	return enrol.NewClient(id, s.where.Addr(), o)
}

// background is a context that ends with the test, or late.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
