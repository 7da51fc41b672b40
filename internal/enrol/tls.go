package enrol

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"hatchery/internal/clusterctrl"
)

// ServerTLS is how the controller serves its calls and a node serves
// /v1/backup: TLS 1.3 only, with a client that shows a certificate of the
// cluster; nobody else gets as far as a request. Which slot it is, a handler
// asks [PeerOfRequest].
func ServerTLS(id *Identity) *tls.Config {
	c := base(id)
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = id.pool()
	// A resumed session would be spared a look at the certificate.
	c.SessionTicketsDisabled = true
	c.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := id.member(state)
		return err
	}
	return c
}

// ClientTLS is how a node calls the controller (slot 0), and the controller a
// slot: the server must show that slot's certificate, whatever address it was
// reached at.
func ClientTLS(id *Identity, slot int) *tls.Config {
	c := base(id)
	c.RootCAs = id.pool()
	c.ServerName = addressOf(slot)
	c.VerifyConnection = func(state tls.ConnectionState) error { return id.isSlot(state, slot) }
	return c
}

// datelessTLS is the controller's ClientTLS for /v1/time, the one call that is made while the
// own clock may be decades off: everything is checked but the dates.
func datelessTLS(id *Identity) *tls.Config {
	c := ClientTLS(id, controllerSlot)
	// crypto/tls cannot leave out the dates alone, so that its own check is
	// off, and VerifyConnection makes all of it. No certificate passes that
	// was not vouched for there.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("the server shows no certificate")
		}
		leaf := state.PeerCertificates[0]
		if err := id.vouched(leaf, x509.ExtKeyUsageServerAuth); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		if err := leaf.VerifyHostname(addressOf(controllerSlot)); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		return id.isSlot(state, controllerSlot)
	}
	return c
}

// controllerSlot is the controller's number among the slots.
const controllerSlot = 0

func base(id *Identity) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{id.Certificate},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"http/1.1"},
	}
}

// addressOf is the address that a slot's certificate is for. Package identity
// writes these, whatever the cluster's file says.
func addressOf(slot int) string {
	if slot == 0 {
		return clusterctrl.ControllerAddr().String()
	}
	return clusterctrl.SlotAddr(slot).String()
}

// member sees that the other end is of this cluster by name too.
func (id *Identity) member(state tls.ConnectionState) (Peer, error) {
	if len(state.PeerCertificates) == 0 {
		return Peer{}, errors.New("the other end shows no certificate")
	}
	p, err := PeerOf(state.PeerCertificates[0])
	if err != nil {
		return Peer{}, &PeerError{err.Error()}
	}
	if p.Cluster != id.Peer.Cluster {
		return Peer{}, &PeerError{fmt.Sprintf("the other end is %s; this is the cluster %s", p, id.Peer.Cluster)}
	}
	return p, nil
}

func (id *Identity) isSlot(state tls.ConnectionState, slot int) error {
	p, err := id.member(state)
	if err != nil {
		return err
	}
	if p.Slot != slot {
		return &PeerError{fmt.Sprintf("the server is %s, and not %s", p, nameOf(slot))}
	}
	return nil
}

// A PeerError is a valid certificate of somebody else than who was called.
type PeerError struct{ Detail string }

func (e *PeerError) Error() string { return e.Detail }
