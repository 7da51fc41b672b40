package swarm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/swarm"
)

// root is a Docker folder with a swarm certificate of that content.
func root(t testing.TB, content []byte) string {
	t.Helper()
	dir := t.TempDir()
	err := os.MkdirAll(filepath.Join(dir, "swarm/certificates"), 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "swarm/certificates/swarm-node.crt"), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// certificate is one of that subject, in PEM.
func certificate(t testing.TB, subject pkix.Name) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(2e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestCertificateOf(t *testing.T) {
	of := func(node, role, cluster string) []byte {
		return certificate(t, pkix.Name{CommonName: node, OrganizationalUnit: []string{role}, Organization: []string{cluster}})
	}
	worker := of("node1", swarm.RoleWorker, "cluster1")
	for _, test := range []struct {
		summary string
		content []byte
		node    string
		err     string
	}{
		{"a worker", worker, "node1", ""},
		{"the issuer follows", append(bytes.Clone(worker), of("ca", "", "")...), "node1", ""},
		{"empty, as a power cut leaves it", nil, "", "no certificate in PEM"},
		{"cut", worker[:100], "", "no certificate in PEM"},
		{"a key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}}), "", "no certificate in PEM"},
		{"no certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), "", "x509"},
		{"no node", certificate(t, pkix.Name{CommonName: "swarm-ca"}), "", "no subject of a swarm's node"},
		{"a unit too many", certificate(t, pkix.Name{CommonName: "n", OrganizationalUnit: []string{"a", "b"}, Organization: []string{"o"}}), "", "no subject of a swarm's node"},
		{"too large", append(bytes.Repeat([]byte{'\n'}, 1<<20), worker...), "", "no certificate in PEM"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			node, cluster, role, from, to, err := swarm.CertificateOf(root(t, test.content))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "swarm-node.crt") {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil || node != test.node || cluster != "cluster1" || role != swarm.RoleWorker || from.Unix() != 1e9 || to.Unix() != 2e9 {
				t.Errorf("got %s, %s, %s, %s to %s, %v", node, cluster, role, from, to, err)
			}
		})
	}
	if _, _, _, _, _, err := swarm.CertificateOf(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("never joined: %v, want one that is fs.ErrNotExist", err)
	}
}

func FuzzCertificateOf(f *testing.F) {
	f.Add(certificate(f, pkix.Name{CommonName: "n", OrganizationalUnit: []string{"u"}, Organization: []string{"o"}}))
	f.Add(certificate(f, pkix.Name{}))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, content []byte) {
		node, cluster, role, _, _, err := swarm.ParseCertificate(content)
		if err == nil && (node == "" || cluster == "" || role == "") {
			t.Errorf("a certificate of nobody: %q, %q, %q", node, cluster, role)
		}
	})
}
