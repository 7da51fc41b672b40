package enrol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"hatchery/internal/nodefile"
)

// IdentityDir is where a node's identity lies.
const IdentityDir = nodefile.ConfigDir + "/identity"

// The files of the folder. The key is readable by root only.
const (
	keyFile         = "key.pem"
	certificateFile = "certificate.pem"
	authorityFile   = "ca.pem"
)

// maxIdentityFile is more than any of the files takes, in bytes.
const maxIdentityFile = 64 << 10

// An Identity is what a node, or the controller, shows to the others, and what
// it knows them by. It holds a key, and prints as its peer.
type Identity struct {
	// Certificate is the own one with its key, an *ecdsa.PrivateKey on P-256,
	// and with Leaf.
	Certificate tls.Certificate
	// Authorities are the cluster's, the only ones that are trusted. There is
	// more than one only while the cluster changes from one to the next.
	Authorities []*x509.Certificate
	// Peer is who the others see.
	Peer Peer
}

// String names the identity, so that no key is printed by accident.
func (id Identity) String() string { return "identity of " + id.Peer.String() }

// GoString is String, for %#v.
func (id Identity) GoString() string { return id.String() }

// LogValue is String, for slog.
func (id Identity) LogValue() slog.Value { return slog.StringValue(id.String()) }

// Key is the identity's private key.
func (id *Identity) Key() *ecdsa.PrivateKey { return id.Certificate.PrivateKey.(*ecdsa.PrivateKey) }

// pool has the authorities as crypto/tls wants them.
func (id *Identity) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range id.Authorities {
		pool.AddCert(c)
	}
	return pool
}

// LoadIdentity reads an identity from its folder: key.pem, certificate.pem and
// ca.pem.
func LoadIdentity(dir string) (*Identity, error) {
	var files [3][]byte
	for i, name := range []string{keyFile, certificateFile, authorityFile} {
		data, err := readSmall(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("cannot read this node's identity: %w (build the image again, or restore the folder)", err)
		}
		files[i] = data
	}
	id, err := NewIdentity(files[0], files[1], files[2])
	if err != nil {
		return nil, fmt.Errorf("cannot read this node's identity in %s: %w (build the image again, or restore the folder)", dir, err)
	}
	return id, nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIdentityFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxIdentityFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxIdentityFile)
	}
	return data, nil
}

// NewIdentity makes an identity of the three files' content: a key (PKCS #8),
// its certificate, and the certificates of the cluster's authorities, all PEM.
func NewIdentity(key, certificate, authorities []byte) (*Identity, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", keyFile, certificateFile, err)
	}
	private, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s holds another kind of key than ECDSA P-256", keyFile)
	}
	id := &Identity{Certificate: pair}
	if id.Authorities, err = parseAuthorities(authorities); err != nil {
		return nil, fmt.Errorf("%s: %w", authorityFile, err)
	}
	if id.Peer, err = PeerOf(pair.Leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", certificateFile, err)
	}
	if err := id.vouched(pair.Leaf, x509.ExtKeyUsageClientAuth); err != nil {
		return nil, fmt.Errorf("%s is not signed by the authority in %s: %w", certificateFile, authorityFile, err)
	}
	return id, nil
}

func parseAuthorities(data []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %.40q: only certificates belong there", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !c.IsCA {
			return nil, fmt.Errorf("the certificate of %.100q is not an authority's", c.Subject)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("holds no certificate")
	}
	return all, nil
}

// vouched sees that one of the authorities signed a certificate for a use,
// whatever the clock says: the chain is judged at the moment when the
// certificate became valid.
func (id *Identity) vouched(leaf *x509.Certificate, use x509.ExtKeyUsage) error {
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: id.pool(), CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{use},
	})
	return err
}
