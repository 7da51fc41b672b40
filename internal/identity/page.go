package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// A Page is what the controller shows to browsers: a key and a certificate of
// their own, for its names on the LAN. The certificate is of no slot (it has no
// URI) and for servers only, so that whoever has it is nobody to the nodes.
type Page struct {
	Certificate []byte // PEM
	Key         []byte // PEM, PKCS #8; secret
}

// String keeps the key out of what is printed by accident.
func (p *Page) String() string { return "certificate of the controller's page" }

// GoString is String, for %#v.
func (p *Page) GoString() string { return p.String() }

// Page gives the key and the certificate of the controller's page, made on first
// use, for the names and addresses by which browsers reach it; another list of
// them changes the certificate alone. They go with the controller's generation:
// a renewed controller has a new key here too. It is asked for after the
// controller's [Store.Target].
func (s *Store) Page(controller *Identity, names []string, addrs []netip.Addr) (*Page, error) {
	if controller.Slot != 0 || controllerNumber(controller.Name) == 0 {
		return nil, fmt.Errorf("the page is a controller's, not %s's", controller.Name)
	}
	want := &x509.Certificate{
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		for label := range strings.SplitSeq(name, ".") {
			if !hostnamePattern.MatchString(label) {
				return nil, fmt.Errorf("%q is not the name of a host", name)
			}
		}
		want.DNSNames = append(want.DNSNames, strings.ToLower(name))
	}
	if len(want.DNSNames) == 0 {
		return nil, fmt.Errorf("the page has no name")
	}
	for _, addr := range addrs {
		want.IPAddresses = append(want.IPAddresses, net.IP(addr.AsSlice()))
	}
	// Apart from the controller's own, which are of the same authority.
	want.Subject = pkix.Name{CommonName: "page of " + s.cluster}

	page := new(Page)
	err := s.locked(func() error {
		folder := controller.Name + "/"
		keyName := folder + pageFile(controller.Generation, "key")
		certificateName := folder + pageFile(controller.Generation, "crt")
		// As with a target's: a key that is missing beside a certificate was lost.
		made, err := s.exists(certificateName)
		if err != nil {
			return err
		}
		key, err := s.key(keyName, !made)
		if err != nil {
			return err
		}
		if page.Key, err = s.read(keyName); err != nil {
			return err
		}
		page.Certificate, err = s.certificate(certificateName, key, want)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make the certificate of the controller's page: %w", err)
	}
	return page, nil
}

func pageFile(generation int, kind string) string {
	return fmt.Sprintf("page-%d.%s", generation, kind)
}
