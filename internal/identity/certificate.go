package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"hatchery/internal/clusterctrl"
)

// Certificates are valid at any time: a Pi Zero has no clock of its own and
// wakes up in the past, and what ends a certificate is its generation. The
// end is RFC 5280's for "no well-defined expiration" (section 4.1.2.5).
var (
	notBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// serialOf is the serial number of a certificate for a public key: positive,
// at most 20 bytes and never given twice, as RFC 5280 wants it, because it is
// a digest of what the certificate says. So the same certificate, issued
// again, is the same to the byte.
func serialOf(template *x509.Certificate, public *ecdsa.PublicKey) (*big.Int, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %x", template.Subject.CommonName, template.DNSNames, template.URIs, template.IPAddresses, der)
	serial := new(big.Int).SetBytes(h.Sum(nil)[:15])
	return serial.Add(serial, big.NewInt(1)), nil
}

// newAuthority makes the authority's certificate, PEM.
func newAuthority(cluster string, key *ecdsa.PrivateKey) ([]byte, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "hatchery cluster " + cluster},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs targets, not other authorities
	}
	return signed(template, template, &key.PublicKey, key)
}

// signed signs a certificate. Without a source of randomness the signature is
// RFC 6979's, which follows from key and content: images that hold the
// certificate come out equal whenever it is issued.
func signed(template, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) ([]byte, error) {
	var err error
	if template.SerialNumber, err = serialOf(template, public); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(nil, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// TargetURI is the name that a target's certificate carries in its subject
// alternative names: hatchery://homelab/slot/2/generation/7. The controller is
// slot 0. The service reads slot and generation from there, and only there.
func TargetURI(cluster string, slot, generation int) *url.URL {
	return &url.URL{Scheme: "hatchery", Host: cluster, Path: fmt.Sprintf("/slot/%d/generation/%d", slot, generation)}
}

// ControllerURI is the name of a controller, of which there are several:
// hatchery://homelab/controller/2/generation/7. The first is slot 0, as the only
// one is.
func ControllerURI(cluster string, number, generation int) *url.URL {
	if number <= 1 {
		return TargetURI(cluster, 0, generation)
	}
	return &url.URL{Scheme: "hatchery", Host: cluster, Path: fmt.Sprintf("/controller/%d/generation/%d", number, generation)}
}

// Reached says at which other addresses a target is reached: its certificate is
// for these too. It is said before [Store.Target] and the like are asked; other
// addresses than before change the certificate alone.
func (s *Store) Reached(name string, addrs ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reached == nil {
		s.reached = map[string][]netip.Addr{}
	}
	s.reached[name] = addrs
}

// certificateFor is what a target's certificate says. Nodes present it to the
// controller as clients, and serve with it too: the controller hands swarm
// backups to them. A node's names and address are its own only, so it cannot
// pass for the controller.
func (s *Store) certificateFor(t target, generation int) *x509.Certificate {
	address := clusterctrl.ControllerAddr()
	if t.slot > 0 {
		address = clusterctrl.SlotAddr(t.slot)
	}
	names := []string{t.name}
	if host := strings.ToLower(t.hostname); host != t.name {
		names = []string{host, t.name}
	}
	uri := TargetURI(s.cluster, t.slot, generation)
	if t.slot == 0 {
		uri = ControllerURI(s.cluster, controllerNumber(t.name), generation)
	}
	addresses := []net.IP{address.AsSlice()}
	for _, a := range s.reached[t.name] {
		addresses = append(addresses, a.AsSlice())
	}
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: t.name},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
		DNSNames:              names,
		IPAddresses:           addresses,
	}
}

// says tells whether a certificate says what it should.
func says(have, want *x509.Certificate) bool {
	return have.Subject.CommonName == want.Subject.CommonName &&
		have.NotBefore.Equal(want.NotBefore) && have.NotAfter.Equal(want.NotAfter) &&
		have.KeyUsage == want.KeyUsage && slices.Equal(have.ExtKeyUsage, want.ExtKeyUsage) && !have.IsCA &&
		slices.Equal(have.DNSNames, want.DNSNames) &&
		slices.EqualFunc(have.URIs, want.URIs, func(a, b *url.URL) bool { return a.String() == b.String() }) &&
		slices.EqualFunc(have.IPAddresses, want.IPAddresses, net.IP.Equal)
}

// certificate gives the certificate of a target's key. It is issued once and
// kept; it is issued anew, for the same key, when the target's names change.
func (s *Store) certificate(name string, key *ecdsa.PrivateKey, want *x509.Certificate) ([]byte, error) {
	there, err := s.exists(name)
	if err != nil {
		return nil, err
	}
	if there {
		data, err := s.read(name)
		if err != nil {
			return nil, err
		}
		have, err := parseCertificate(data)
		if err != nil {
			return nil, &DamagedError{s.path(name), err.Error()}
		}
		if !key.PublicKey.Equal(have.PublicKey) {
			return nil, &DamagedError{s.path(name), "is not the certificate of the key beside it"}
		}
		if have.CheckSignatureFrom(s.ca) != nil {
			return nil, &DamagedError{s.path(name), "was not signed by " + caKeyFile}
		}
		if says(have, want) {
			return data, nil
		}
	}
	data, err := signed(want, s.ca, &key.PublicKey, s.caKey)
	if err != nil {
		return nil, fmt.Errorf("cannot issue %s: %w", s.path(name), err)
	}
	return data, s.write(name, data)
}

// key reads an ECDSA P-256 key, or makes it where that is allowed.
func (s *Store) key(name string, mayMake bool) (*ecdsa.PrivateKey, error) {
	if mayMake {
		err := s.createOnce(name, func() ([]byte, error) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return nil, err
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				return nil, err
			}
			return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
		})
		if err != nil {
			return nil, err
		}
	}
	data, err := s.read(name)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, &DamagedError{s.path(name), err.Error()}
	}
	return key, nil
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	der, err := onlyBlock(data, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("holds no private key that can be read")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("holds another kind of key than ECDSA P-256")
	}
	return key, nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	der, err := onlyBlock(data, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("holds no certificate that can be read")
	}
	return cert, nil
}

// onlyBlock gives the content of a PEM file that holds one block.
func onlyBlock(data []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, errors.New("is not a PEM file")
	}
	if block.Type != kind || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fmt.Errorf("is not a PEM file with one %s", strings.ToLower(kind))
	}
	return block.Bytes, nil
}
