package apttest

import (
	"bytes"
	"crypto"
	"io"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// A Key signs Release files.
type Key struct {
	t      testing.TB
	entity *openpgp.Entity
}

// keyCreated is when keys of NewKey begin to be valid.
var keyCreated = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// NewKey makes a key (Ed25519) that is valid for ever.
func NewKey(t testing.TB, name string) *Key {
	t.Helper()
	entity, err := openpgp.NewEntity(name, "", "", config(keyCreated))
	if err != nil {
		t.Fatalf("apttest: cannot make a key: %v", err)
	}
	return &Key{t, entity}
}

func config(now time.Time) *packet.Config {
	plain := false
	return &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256, Time: func() time.Time { return now },
		NonDeterministicSignaturesViaNotation: &plain,
	}
}

// Public is the key's public part, armored.
func (k *Key) Public() []byte {
	k.t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, openpgp.PublicKeyType, nil)
	if err == nil {
		err = k.entity.Serialize(w)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		k.t.Fatalf("apttest: %v", err)
	}
	return append(out.Bytes(), '\n')
}

// Binary is the key's public part as a binary keyring has it.
func (k *Key) Binary() []byte {
	k.t.Helper()
	var out bytes.Buffer
	if err := k.entity.Serialize(&out); err != nil {
		k.t.Fatalf("apttest: %v", err)
	}
	return out.Bytes()
}

// Fingerprint is the key's.
func (k *Key) Fingerprint() []byte { return k.entity.PrimaryKey.Fingerprint }

// ClearSign signs a text as InRelease is.
func ClearSign(t testing.TB, text []byte, at time.Time, by ...*Key) []byte {
	t.Helper()
	var keys []*packet.PrivateKey
	for _, k := range by {
		keys = append(keys, k.entity.PrivateKey)
	}
	var out bytes.Buffer
	w, err := clearsign.EncodeMulti(&out, keys, config(at))
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatalf("apttest: cannot sign: %v", err)
	}
	return append(out.Bytes(), '\n')
}

// detach signs a text as Release.gpg does it.
func detach(t testing.TB, text []byte, at time.Time, by ...*Key) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, openpgp.SignatureType, nil)
	for _, k := range by {
		if err == nil {
			err = openpgp.DetachSign(w, k.entity, bytes.NewReader(text), config(at))
		}
	}
	if err == nil {
		err = w.(io.Closer).Close()
	}
	if err != nil {
		t.Fatalf("apttest: cannot sign: %v", err)
	}
	return append(out.Bytes(), '\n')
}
