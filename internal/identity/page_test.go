package identity_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hatchery/internal/identity"
)

func pageOf(t *testing.T, s *identity.Store, id *identity.Identity, names ...string) (*identity.Page, *x509.Certificate) {
	t.Helper()
	page, err := s.Page(id, names, []netip.Addr{netip.MustParseAddr("172.19.181.254"), netip.MustParseAddr("192.168.1.9")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(page.Certificate, page.Key); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(page.Certificate)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return page, leaf
}

func TestPage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	store, err := identity.Open(dir, "homelab")
	if err != nil {
		t.Fatal(err)
	}
	controller, err := store.Target("controller", 0, "hammond")
	if err != nil {
		t.Fatal(err)
	}
	page, leaf := pageOf(t, store, controller, "Hammond", "hammond.local")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(store.CA())
	for _, name := range []string{"hammond", "hammond.local", "172.19.181.254", "192.168.1.9"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// With it nobody is a node, nor the controller to one.
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("it is good for clients")
	}
	if len(leaf.URIs) != 0 || leaf.IsCA || bytes.Equal(page.Key, controller.Key) {
		t.Errorf("URIs %v, authority %v", leaf.URIs, leaf.IsCA)
	}
	if strings.Contains(page.String(), "PRIVATE") || strings.Contains(page.GoString(), "PRIVATE") {
		t.Error("it prints its key")
	}

	// The same call gives the same bytes, from another process too; other names
	// another certificate; a renewed controller another key.
	again, err := identity.Open(dir, "homelab")
	if err != nil {
		t.Fatal(err)
	}
	same, _ := pageOf(t, again, controller, "hammond", "hammond.local")
	if !bytes.Equal(same.Key, page.Key) || !bytes.Equal(same.Certificate, page.Certificate) {
		t.Error("it is another the second time")
	}
	other, leaf := pageOf(t, again, controller, "hammond", "hammond.lan")
	if !bytes.Equal(other.Key, page.Key) || bytes.Equal(other.Certificate, page.Certificate) || !slices.Equal(leaf.DNSNames, []string{"hammond", "hammond.lan"}) {
		t.Errorf("with another name: %v", leaf.DNSNames)
	}
	renewed, err := again.Renew("controller", 0, "hammond")
	if err != nil {
		t.Fatal(err)
	}
	if next, _ := pageOf(t, again, renewed, "hammond"); bytes.Equal(next.Key, page.Key) {
		t.Error("a renewed controller has the old key")
	}
	if info, err := os.Stat(filepath.Join(dir, "controller", "page-1.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// The store is whole with it.
	if _, err := identity.Open(dir, "homelab"); err != nil {
		t.Error(err)
	}
	if _, err := again.Target("controller", 0, "hammond"); err != nil {
		t.Error(err)
	}

	// A key that was lost is not made anew behind its certificate's back.
	if err := os.Remove(filepath.Join(dir, "controller", "page-2.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Page(renewed, []string{"hammond"}, nil); err == nil {
		t.Error("a lost key was made anew")
	}
	p1, err := again.Target("p1", 1, "oneil")
	if err != nil {
		t.Fatal(err)
	}
	for summary, bad := range map[string]struct {
		id    *identity.Identity
		names []string
	}{
		"a slot's": {p1, []string{"hammond"}}, "without a name": {controller, nil}, "with a wildcard": {controller, []string{"*.example"}}, "with half a name": {controller, []string{"hammond."}},
	} {
		if _, err := again.Page(bad.id, bad.names, []netip.Addr{netip.MustParseAddr("127.0.0.1")}); err == nil {
			t.Errorf("%s: it was made", summary)
		}
	}
}

// TestPagePreview writes nothing.
func TestPagePreview(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	store, err := identity.Preview(dir, "homelab")
	if err != nil {
		t.Fatal(err)
	}
	controller, err := store.Target("controller", 0, "hammond")
	if err != nil {
		t.Fatal(err)
	}
	page, leaf := pageOf(t, store, controller, "hammond")
	same, _ := pageOf(t, store, controller, "hammond")
	if !bytes.Equal(page.Key, same.Key) || !slices.ContainsFunc(leaf.IPAddresses, net.IPv4(192, 168, 1, 9).Equal) {
		t.Error("it is another the second time")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
}
