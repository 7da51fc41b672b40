// Package identity keeps what makes the nodes of a cluster those nodes, and no
// others, over all rebuilds: the cluster's certificate authority, a key and a
// certificate per target and generation, the SSH host keys, and the secret
// that machine-ids and disk ids are derived from.
//
// It all lies in one folder beside cluster.yaml, made on first use and kept:
//
//	identity/.gitignore                  *, so that no key is committed by accident
//	identity/.lock                       held by the process that works here
//	identity/identity.json               the cluster's name, the secret
//	identity/ca.key, ca.crt              the authority; its key never leaves this folder
//	identity/p2/target.json              which generation and which host key are the present ones
//	identity/p2/generation-7.key, .crt   the slot's key and certificate; older generations stay
//	identity/p2/ssh_host_ed25519_key-1   the SSH host key
//	identity/controller/page-1.key, .crt what the controller shows to browsers, where they reach it
//
// Files are written whole or not at all, in this order: identity.json, ca.key,
// ca.crt; then for a target the keys, the certificate, and target.json last.
// What a killed process left undone is therefore always a missing end, which
// the next run completes. Anything else that is missing was removed by
// somebody, and is an error: a key made anew in its place would be another
// identity under the old name.
//
// A renewal ([Store.Renew]) changes the key and the certificate, since those
// are what the controller revokes. The SSH host key stays, so that nobody who
// logs in is warned of a changed host after every renewal; where the card with
// it was lost, [Store.RenewHostKey] changes that as well. The machine-id and
// the disk id belong to the slot and never change.
package identity

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// An Identity is what one target's image holds of it. The authority's key is
// not in it.
type Identity struct {
	Name          string // "controller", "p1" …
	Slot          int    // 0: the controller
	Generation    int    // from 1
	Certificate   []byte // PEM, for client and server
	Key           []byte // PEM, PKCS #8; secret
	CA            []byte // PEM, the authority's certificate
	HostKey       []byte // in OpenSSH's format, without a passphrase; secret
	HostKeyPublic string // as in authorized_keys, without a comment
}

// String names the identity. It keeps keys out of what is printed by
// accident.
func (id *Identity) String() string {
	return fmt.Sprintf("identity of %s, generation %d", id.Name, id.Generation)
}

// GoString is String, for %#v.
func (id *Identity) GoString() string { return id.String() }

// KnownHosts is the target's line of a known_hosts file, without the newline,
// for the given names and addresses.
func (id *Identity) KnownHosts(hosts ...string) (string, error) {
	if len(hosts) == 0 {
		return "", fmt.Errorf("no name to know %s by", id.Name)
	}
	for _, host := range hosts {
		if host == "" || strings.ContainsAny(host, " \t\n,#*?!") {
			return "", fmt.Errorf("%q is not the name of a host", host)
		}
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(id.HostKeyPublic))
	if err != nil {
		return "", fmt.Errorf("cannot read the host key of %s: %w", id.Name, err)
	}
	return knownhosts.Line(hosts, key), nil
}
