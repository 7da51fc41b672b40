package imageregistry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// tlsFor is how the registry is served: with the certificate that nodes know the
// controller's address by, and to whoever has none of the cluster too.
func tlsFor(id *enrol.Identity) *tls.Config {
	pool := x509.NewCertPool()
	for _, c := range id.Authorities {
		pool.AddCert(c)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{id.Certificate},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
		// A resumed session would be spared a look at the certificate.
		SessionTicketsDisabled: true,
	}
}

// reads says whether a request only reads.
func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// from is the address that a request comes from.
func from(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// A gate lets in whom the registry is for.
type gate struct {
	cluster     string
	revocations string
	next        http.Handler
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The controller's address answers on its other links too.
	if !clusterctrl.Network.Contains(from(r)) {
		refuse(w, http.StatusForbidden, "DENIED", fmt.Sprintf("this registry is for the cluster's own network, %s", clusterctrl.Network))
		return
	}
	if !reads(r) {
		if err := g.writes(r); err != nil {
			refuse(w, http.StatusForbidden, "DENIED", err.Error())
			return
		}
	}
	g.next.ServeHTTP(w, r)
}

// writes says why a request may change nothing.
func (g *gate) writes(r *http.Request) error {
	peer, err := enrol.PeerOfRequest(r)
	if err != nil {
		return errors.New("only the engines of the cluster's nodes push, each with its certificate (/etc/docker/certs.d)")
	}
	if peer.Cluster != g.cluster {
		return fmt.Errorf("the certificate is of the cluster %.60q, and this is %s", peer.Cluster, g.cluster)
	}
	own := clusterctrl.ControllerAddr()
	if peer.Slot > 0 {
		own = clusterctrl.SlotAddr(peer.Slot)
	}
	// Of several controllers each has an address of its own, which its certificate names.
	if at := from(r); at != own && (peer.Controller < 2 || r.TLS.PeerCertificates[0].VerifyHostname(at.String()) != nil) {
		return fmt.Errorf("the certificate is %s's, and the request comes from %s", peer.Name(), at)
	}
	least, err := leastGeneration(g.revocations, peer.Name())
	if err != nil {
		return fmt.Errorf("nobody pushes while it is not known who was revoked: %w", err)
	}
	if peer.Generation < least {
		return fmt.Errorf("the certificate of %s was revoked", peer.Name())
	}
	return nil
}

// maxRevocations is more than the controller's file has, in bytes.
const maxRevocations = 16 << 20

// leastGeneration is the least generation of a target's certificate that the
// controller accepts.
func leastGeneration(path, target string) (int, error) {
	if path == "" {
		return 0, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRevocations))
	if err != nil {
		return 0, err
	}
	var known struct {
		Slots map[string]struct {
			MinGeneration int `json:"min_generation"`
		} `json:"slots"`
	}
	if err := json.Unmarshal(data, &known); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return known.Slots[target].MinGeneration, nil
}
