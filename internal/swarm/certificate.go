package swarm

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// maxCertificate is more than a certificate with its chain takes, in bytes.
const maxCertificate = 1 << 20

// The roles of a node's certificate, as CertificateOf gives them.
const (
	RoleWorker  = "swarm-worker"
	RoleManager = "swarm-manager"
)

// CertificateOf is what the certificate says that an engine got when it
// joined: which node of which swarm it believes to be. It lies below Docker's
// folder, so it is known even when the engine does not run or its swarm is in
// state error. The error is fs.ErrNotExist when it has never joined, or left.
//
// Where it lies and what stands in it: swarmkit ca/config.go (NewConfigPaths)
// and ca/certificates.go (common name: node, unit: role, organisation: swarm).
func CertificateOf(dockerRoot string) (nodeID, clusterID, role string, notBefore, notAfter time.Time, err error) {
	path := filepath.Join(dockerRoot, "swarm/certificates/swarm-node.crt")
	f, err := os.Open(path)
	if err != nil {
		err = fmt.Errorf("cannot read the node's swarm certificate: %w", err)
		return
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCertificate))
	if err != nil {
		err = fmt.Errorf("cannot read the node's swarm certificate: %w", err)
		return
	}
	nodeID, clusterID, role, notBefore, notAfter, err = parseCertificate(data)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return
}

// parseCertificate reads the first certificate of a PEM file: the node's own,
// which those that signed it may follow.
func parseCertificate(data []byte) (nodeID, clusterID, role string, notBefore, notAfter time.Time, err error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		err = errors.New("begins with no certificate in PEM")
		return
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return
	}
	s := c.Subject
	if len(s.Organization) == 1 && len(s.OrganizationalUnit) == 1 {
		nodeID, clusterID, role = s.CommonName, s.Organization[0], s.OrganizationalUnit[0]
	}
	if nodeID == "" || clusterID == "" || role == "" {
		return "", "", "", time.Time{}, time.Time{}, fmt.Errorf("%q is no subject of a swarm's node", s)
	}
	return nodeID, clusterID, role, c.NotBefore, c.NotAfter, nil
}
