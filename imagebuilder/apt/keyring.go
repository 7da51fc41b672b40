package apt

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// publicKeyArmor begins an armored keyring (RFC 9580, 6.2).
const publicKeyArmor = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

// maxKeyring bounds a keyring: Debian's of all its archive keys has 60 kB.
const maxKeyring = 4 << 20

// keyRules are by which rules keys are judged: self-signatures over SHA-1
// count, as archives' keys are old, and lie in the image's own keyrings, which
// vouch for them; none over MD5 does. Signatures over Release files have rules
// of their own.
func keyRules() *packet.Config {
	return &packet.Config{
		RejectHashAlgorithms: map[crypto.Hash]bool{crypto.MD5: true, crypto.RIPEMD160: true},
		// As gpg has it: a key that does not say what it is for, is for all.
		InsecureAllowAllKeyFlagsWhenMissing: true,
	}
}

// unusableKeyring says what is wrong with a keyring as a file.
func unusableKeyring(data []byte) string {
	switch {
	case len(data) > maxKeyring:
		return "it is larger than any keyring"
	case len(bytes.TrimSpace(data)) == 0:
		return "it is empty"
	case len(data) >= 12 && string(data[8:12]) == "KBXf":
		return "it is a GnuPG keybox, which apt does not read either (gpg --export makes a keyring)"
	case bytes.Contains(data, []byte(publicKeyArmor)) || data[0]&0x80 != 0:
		return ""
	}
	return "it is no OpenPGP keyring, neither binary nor armored"
}

// readKeys reads the keys of keyrings. What is wrong with some of them does
// not touch the others, and is told.
func readKeys(keyrings []Keyring) (keys openpgp.EntityList, problems []error) {
	for _, k := range keyrings {
		if k.Data == nil {
			problems = append(problems, fmt.Errorf("the keyring %s is not there", k.Name))
			continue
		}
		blocks, err := dearmor(k.Data)
		if err != nil {
			problems = append(problems, fmt.Errorf("the keyring %s: %w", k.Name, err))
		}
		for _, block := range blocks {
			found, err := readEntities(block)
			if err != nil {
				problems = append(problems, fmt.Errorf("the keyring %s: %w", k.Name, err))
			}
			keys = append(keys, found...)
		}
	}
	return keys, problems
}

// dearmor gives the binary keyrings in a file.
func dearmor(data []byte) (blocks [][]byte, err error) {
	if len(data) > maxKeyring {
		return nil, errors.New(unusableKeyring(data))
	}
	if i := bytes.Index(data, []byte(publicKeyArmor)); i < 0 {
		return [][]byte{data}, nil
	}
	for {
		i := bytes.Index(data, []byte(publicKeyArmor))
		if i < 0 {
			return blocks, nil
		}
		data = data[i:]
		next := bytes.Index(data[1:], []byte(publicKeyArmor))
		if next < 0 {
			next = len(data) - 1
		}
		one := data[:next+1]
		data = data[next+1:]
		block, err := armor.Decode(bytes.NewReader(one))
		if err != nil {
			return blocks, fmt.Errorf("its armor is broken: %w", err)
		}
		body, err := io.ReadAll(block.Body)
		if err != nil {
			return blocks, fmt.Errorf("its armor is broken: %w", err)
		}
		blocks = append(blocks, body)
	}
}

// readEntities reads a binary keyring key by key, past those that cannot be
// read: keyrings hold keys of kinds that are no more, or not yet, known.
func readEntities(data []byte) (keys openpgp.EntityList, problem error) {
	parts, problem := splitKeys(data)
	for _, part := range parts {
		e, err := openpgp.ReadEntity(packet.NewReader(bytes.NewReader(part)))
		if err != nil {
			problem = fmt.Errorf("a key cannot be read: %w", err)
			continue
		}
		keys = append(keys, e)
	}
	return keys, problem
}

// The numbers of packets (RFC 9580, 5).
const (
	secretKeyPacket = 5
	publicKeyPacket = 6
)

// splitKeys cuts a binary keyring into its keys, each with what belongs to it.
func splitKeys(data []byte) (parts [][]byte, err error) {
	begin := -1 // of the key under way
	for at := 0; at < len(data); {
		kind, size, ok := packetAt(data[at:])
		if !ok || size > len(data)-at {
			// The key before it counts where it is surely whole.
			if begin >= 0 && (kind == publicKeyPacket || kind == secretKeyPacket) {
				parts = append(parts, data[begin:at])
			}
			return parts, fmt.Errorf("a key cannot be read: no OpenPGP packet, or none that is whole, at byte %d", at)
		}
		if kind == publicKeyPacket || kind == secretKeyPacket {
			if begin >= 0 {
				parts = append(parts, data[begin:at])
			}
			begin = at
		}
		at += size
	}
	if begin >= 0 {
		parts = append(parts, data[begin:])
	}
	return parts, nil
}

// packetAt gives the kind and length, its header's included, of the packet
// that data begins with (RFC 9580, 4.2). Those of partial or unknown length
// are none of a keyring's.
func packetAt(data []byte) (kind byte, size int, ok bool) {
	number := func(at, n int) (int, bool) {
		if at+n > len(data) {
			return 0, false
		}
		v := 0
		for _, b := range data[at : at+n] {
			v = v<<8 | int(b)
		}
		return v, v <= maxKeyring
	}
	if len(data) < 2 || data[0]&0x80 == 0 {
		return 0, 0, false
	}
	if data[0]&0x40 == 0 { // the old format
		n := 1 << (data[0] & 3)
		if n == 8 {
			return 0, 0, false
		}
		size, ok = number(1, n)
		return data[0] >> 2 & 15, 1 + n + size, ok
	}
	kind = data[0] & 63
	switch first := int(data[1]); {
	case first < 192:
		return kind, 2 + first, true
	case first < 224:
		second, ok := number(2, 1)
		return kind, 3 + (first-192)<<8 + second + 192, ok
	case first == 255:
		size, ok = number(2, 4)
		return kind, 6 + size, ok
	}
	return 0, 0, false
}

// hexFingerprint is how a key is named in messages and options.
func hexFingerprint(k *packet.PublicKey) string { return fmt.Sprintf("%X", k.Fingerprint) }

// names lists keyrings for a message.
func names(keyrings []Keyring) string {
	var all []string
	for _, k := range keyrings {
		all = append(all, k.Name)
	}
	if len(all) == 0 {
		return "no keyring"
	}
	return strings.Join(all, ", ")
}
