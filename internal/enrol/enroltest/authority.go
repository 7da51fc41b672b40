// Package enroltest gives tests identities of a cluster: those that the
// builder makes, and such as it never would, which end or are of somebody
// else.
package enroltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
)

// A Cluster gives identities as the builder does.
type Cluster struct{ Store *identity.Store }

// NewCluster is a cluster with an authority of its own.
func NewCluster(t testing.TB, name string) Cluster {
	t.Helper()
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), name)
	if err != nil {
		t.Fatal(err)
	}
	return Cluster{store}
}

// Files is what a slot's image gets; 0 is the controller.
func (c Cluster) Files(t testing.TB, slot int) *identity.Identity {
	t.Helper()
	name := "controller"
	if slot > 0 {
		name = clusterctrl.SlotName(slot)
	}
	id, err := c.Store.Target(name, slot, "host"+name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Slot is a slot's identity.
func (c Cluster) Slot(t testing.TB, slot int) *enrol.Identity {
	t.Helper()
	files := c.Files(t, slot)
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

// An Authority issues certificates that the builder would not: with an end,
// with names of others.
type Authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

// NewAuthority is an authority that is valid for a time, as what it issues is.
func NewAuthority(t testing.TB, from, to time.Time) Authority {
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
	return Authority{key, c}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Issue makes the three files of an identity, PEM. Change alters the
// certificate before it is signed; it may be nil.
func (a Authority) Issue(t testing.TB, uri *url.URL, address netip.Addr, change func(*x509.Certificate)) (key, certificate, ca []byte) {
	t.Helper()
	own := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(42), NotBefore: a.certificate.NotBefore, NotAfter: a.certificate.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{uri}, IPAddresses: []net.IP{address.AsSlice()},
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

// Identity is a slot's of the cluster homelab, generation 1, altered as
// [Authority.Issue] has it.
func (a Authority) Identity(t testing.TB, slot int, change func(*x509.Certificate)) *enrol.Identity {
	t.Helper()
	address := clusterctrl.ControllerAddr()
	if slot > 0 {
		address = clusterctrl.SlotAddr(slot)
	}
	key, certificate, ca := a.Issue(t, identity.TargetURI("homelab", slot, 1), address, change)
	return parsed(t, key, certificate, ca)
}
