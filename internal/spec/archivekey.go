package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// maxArchiveKey is more than any archive's keyring has, in bytes.
const maxArchiveKey = 1 << 20

const armorHead = "-----BEGIN PGP "

// maxArmors is more armored blocks than any such file has. Each is looked for
// in all that is left of the file.
const maxArmors = 64

// archiveKey reads the keys of an archive: a file, or the text itself.
func (d *decoder) archiveKey(v item, s *AptSource) {
	data := []byte(v.text)
	what := "this"
	if !strings.Contains(v.text, armorHead) {
		place, ok := d.existingFile(v, "the key file")
		if !ok {
			return
		}
		what = quote(v.text)
		content, err := readLimited(place, maxArchiveKey+1)
		if err != nil {
			d.problem(v, "the key file %s cannot be read: %s", what, reason(err))
			return
		}
		data, s.KeyFile = content, place
	}
	if len(data) > maxArchiveKey {
		d.problem(v, "%s is larger than 1 MiB: this is no keyring of an archive", what)
		return
	}
	if err := checkKeyring(data); err != nil {
		d.problem(v, "%s %s", what, err)
		return
	}
	s.Key = string(data)
}

var errPrivate = errors.New("holds a PRIVATE key, which must never leave your machine: name the public one (`gpg --export`)")

// checkKeyring sees that data is OpenPGP public keys and nothing else (RFC
// 9580, section 10.1). The error is the rest of a sentence. Whether a key is
// good for a signature is seen when there is one.
func checkKeyring(data []byte) error {
	if bytes.HasPrefix(data, []byte("KBXf")) || len(data) > 12 && bytes.Equal(data[8:12], []byte("KBXf")) {
		return errors.New("is a keybox of GnuPG: write the keys out of it with `gpg --no-default-keyring --keyring ./FILE --export`")
	}
	if isPrivateKey(data) {
		return errPrivate
	}
	blocks := [][]byte{data}
	if bytes.Contains(data, []byte(armorHead)) {
		var err error
		if blocks, err = dearmor(data); err != nil {
			return err
		}
	}
	known := false
	for _, block := range blocks {
		found, err := findKey(block)
		if err != nil {
			return err
		}
		known = known || found
	}
	if !known {
		return errors.New("holds no OpenPGP public key that is known here: an archive says where its key is, often beside its packages")
	}
	return nil
}

// dearmor gives what the armored blocks of a file hold: several keys are often
// put into one by `cat`.
func dearmor(data []byte) ([][]byte, error) {
	var blocks [][]byte
	for rest := data; ; {
		at := bytes.Index(rest, []byte(armorHead))
		if at < 0 {
			return blocks, nil
		}
		if rest = rest[at:]; len(blocks) == maxArmors {
			return nil, fmt.Errorf("has more than %d armored blocks: this is no keyring of an archive", maxArmors)
		}
		b, err := armor.Decode(bytes.NewReader(rest))
		if err != nil {
			return nil, errors.New("is damaged: its armor (-----BEGIN PGP …) cannot be read; fetch it anew")
		}
		switch b.Type {
		case "PGP PUBLIC KEY BLOCK":
		case "PGP PRIVATE KEY BLOCK":
			return nil, errPrivate
		case "PGP SIGNATURE", "PGP SIGNED MESSAGE":
			return nil, errors.New("is a signature, not a key: name the key that it was made with")
		default:
			return nil, errors.New("is something of OpenPGP, but no key: name the archive's public key")
		}
		content, err := io.ReadAll(io.LimitReader(b.Body, maxArchiveKey))
		if err != nil {
			return nil, errors.New("is damaged: its armor cannot be decoded; fetch it anew")
		}
		blocks = append(blocks, content)
		rest = rest[len(armorHead):]
	}
}

// findKey looks for a primary key among packets. Keys of kinds that are not
// known here are passed over, since others may stand beside them.
func findKey(packets []byte) (found bool, err error) {
	r := packet.NewOpaqueReader(bytes.NewReader(packets))
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return false, errors.New("is no OpenPGP key, or damaged: fetch it anew")
		}
		switch p.Tag {
		case 5, 7: // RFC 9580, section 5: a secret key or subkey
			return false, errPrivate
		case 6: // a public key
			if found {
				continue // one is enough, and looking at it takes a while
			}
			parsed, err := p.Parse()
			_, ok := parsed.(*packet.PublicKey)
			found = ok && err == nil
		case 2, 13, 14, 17, 12, 10, 21: // signature, user id, public subkey, user attribute, trust, marker, padding
		default:
			return false, errors.New("is not a file of OpenPGP public keys alone: name what the archive publishes as its key")
		}
	}
}
