package enrol

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
)

// maxGeneration is the highest generation that package identity gives: a slot
// gets the next one with every `hatchery build --renew`.
const maxGeneration = 1 << 30

// A Peer is who holds a certificate of the cluster.
type Peer struct {
	Cluster    string // the cluster's name
	Slot       int    // 0: a controller
	Controller int    // which of several, from 2; 0: the first, or a slot
	Generation int    // from 1
	Serial     string // the certificate's serial number, hexadecimal
}

// String is "p2, generation 7 of homelab".
func (p Peer) String() string {
	return fmt.Sprintf("%s, generation %d of %s", p.Name(), p.Generation, p.Cluster)
}

// Name is the target's: p2, controller, controller2.
func (p Peer) Name() string {
	if p.Controller > 1 {
		return nameOf(0) + strconv.Itoa(p.Controller)
	}
	return nameOf(p.Slot)
}

// nameOf is the target's name of a slot.
func nameOf(slot int) string {
	if slot == 0 {
		return "controller"
	}
	return clusterctrl.SlotName(slot)
}

// uri is the name of a peer's certificate: hatchery://homelab/slot/2/generation/7.
// Package identity writes it.
func (p Peer) uri() string {
	if p.Controller > 1 {
		return fmt.Sprintf("hatchery://%s/controller/%d/generation/%d", p.Cluster, p.Controller, p.Generation)
	}
	return fmt.Sprintf("hatchery://%s/slot/%d/generation/%d", p.Cluster, p.Slot, p.Generation)
}

// PeerOf reads who a certificate is for. It looks at the URI among the
// alternative names only, and takes it in the one spelling that the builder
// writes; it does not say whether the certificate is valid, which TLS has to
// (see [ServerTLS]).
func PeerOf(c *x509.Certificate) (Peer, error) {
	if len(c.URIs) != 1 {
		return Peer{}, fmt.Errorf("a certificate with %d URIs is of no slot: it has one, hatchery://CLUSTER/slot/N/generation/G", len(c.URIs))
	}
	u := c.URIs[0]
	p, err := parsePath(u.Path)
	p.Cluster = u.Host
	if err != nil || p.Cluster == "" || p.uri() != u.String() {
		return Peer{}, fmt.Errorf("%.100q is not the name of a slot: that is hatchery://CLUSTER/slot/N/generation/G", u.String())
	}
	if c.SerialNumber != nil {
		p.Serial = c.SerialNumber.Text(16)
	}
	return p, nil
}

func parsePath(path string) (Peer, error) {
	words := strings.Split(path, "/")
	if len(words) != 5 || words[0] != "" || words[3] != "generation" {
		return Peer{}, errors.New("no slot")
	}
	var p Peer
	n, err := strconv.Atoi(words[2])
	switch {
	case err != nil:
		return Peer{}, errors.New("no slot")
	case words[1] == "slot" && n >= 0 && n <= clusterctrl.MaxSlot:
		p.Slot = n
	case words[1] == "controller" && n > 1 && n <= clusterctrl.MaxSlot:
		p.Controller = n
	default:
		return Peer{}, errors.New("no slot")
	}
	generation, err := strconv.Atoi(words[4])
	if err != nil || generation < 1 || generation > maxGeneration {
		return Peer{}, errors.New("no generation")
	}
	p.Generation = generation
	return p, nil
}

// PeerOfRequest is who sent a request that came over TLS with [ServerTLS].
func PeerOfRequest(r *http.Request) (Peer, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
		return Peer{}, errors.New("the request came without a certificate")
	}
	return PeerOf(r.TLS.PeerCertificates[0])
}
