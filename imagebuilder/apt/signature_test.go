package apt_test

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"hatchery/imagebuilder/apt"
	"hatchery/internal/testtool"
)

// fixture reads a file of testdata/signatures.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "signatures", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// keyring is one of the fixtures' keys.
func keyring(t testing.TB, name string) apt.Keyring {
	return apt.Keyring{Name: name, Data: fixture(t, name+".key.asc")}
}

// binary is the keyring of a fixture as a .gpg file has it.
func binary(t testing.TB, name string) []byte {
	t.Helper()
	block, err := armor.Decode(bytes.NewReader(fixture(t, name+".key.asc")))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(block.Body); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// keyID gives the fingerprints of a fixture's key and of its subkeys.
func keyID(t testing.TB, name string) []string {
	t.Helper()
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(fixture(t, name+".key.asc")))
	if err != nil {
		t.Fatal(err)
	}
	all := []string{fmt.Sprintf("%X", keys[0].PrimaryKey.Fingerprint)}
	for _, s := range keys[0].Subkeys {
		all = append(all, fmt.Sprintf("%X", s.PublicKey.Fingerprint))
	}
	return all
}

const accepted = apt.Why(-1)

// theDay is when signatures are judged.
var theDay = time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC)

var signatureTests = []struct {
	summary  string
	signed   string // fixture: .inrelease.asc or .gpg.asc
	keys     []string
	want     apt.Why
	says     string
	stricter bool // than gpgv
}{
	{summary: "RSA", signed: "rsa.inrelease", keys: []string{"rsa"}, want: accepted},
	{summary: "Ed25519", signed: "ed25519.inrelease", keys: []string{"ed25519"}, want: accepted},
	{summary: "ECDSA", signed: "ecdsa.inrelease", keys: []string{"ecdsa"}, want: accepted},
	{summary: "DSA", signed: "dsa.inrelease", keys: []string{"dsa"}, want: accepted},
	{summary: "a signing subkey", signed: "subkey.inrelease", keys: []string{"subkey"}, want: accepted},
	{summary: "SHA-512", signed: "sha512-message.inrelease", keys: []string{"rsa"}, want: accepted},
	{summary: "Release.gpg", signed: "rsa.gpg", keys: []string{"rsa"}, want: accepted},
	{summary: "Release.gpg over text", signed: "rsa-text.gpg", keys: []string{"rsa"}, want: accepted},
	{summary: "one of several keys", signed: "ed25519.inrelease", keys: []string{"several"}, want: accepted},
	{summary: "one of several keyrings", signed: "ed25519.inrelease", keys: []string{"rsa", "ed25519"}, want: accepted},
	{summary: "a key that has signed itself over SHA-1", signed: "sha1-self.inrelease", keys: []string{"sha1-self"}, want: accepted},
	{summary: "a key that has signed itself over MD5", signed: "md5-self.inrelease", keys: []string{"md5-self"}, want: apt.UnknownKey, says: "a key cannot be read"},
	{summary: "a message over SHA-1", signed: "sha1-message.inrelease", keys: []string{"rsa"}, want: apt.WeakDigest,
		says: "has signed it over SHA-1, of which others can be made that look signed: the archive has to sign over SHA-256 or better"},
	{summary: "a message over MD5", signed: "md5-message.inrelease", keys: []string{"rsa"}, want: apt.WeakDigest, says: "hash function 1"},
	{summary: "no such key", signed: "stranger.inrelease", keys: []string{"rsa", "ed25519"}, want: apt.UnknownKey, says: "which is not in rsa, ed25519: a newer base image"},
	{summary: "no key at all", signed: "rsa.inrelease", want: apt.UnknownKey, says: "not in no keyring"},
	{summary: "an expired key", signed: "expired.inrelease", keys: []string{"expired"}, want: apt.ExpiredKey, says: "which is not valid any more (since 2024-01-01)"},
	{summary: "an expired subkey", signed: "subkey-expired.inrelease", keys: []string{"subkey-expired"}, want: apt.ExpiredKey, says: "since 2024-01-01"},
	{summary: "a withdrawn key", signed: "revoked.inrelease", keys: []string{"revoked"}, want: apt.RevokedKey, says: "which its owner has withdrawn"},
	{summary: "a withdrawn subkey", signed: "subkey-revoked.inrelease", keys: []string{"subkey-revoked"}, want: apt.RevokedKey},
	{summary: "an expired signature", signed: "expired-signature.inrelease", keys: []string{"ed25519"}, want: apt.ExpiredSignature},
	{summary: "another text", signed: "tampered.inrelease", keys: []string{"rsa"}, want: apt.BadSignature, says: "its Release file is not what the key"},
	{summary: "1024 bits of RSA", signed: "weak-rsa.inrelease", keys: []string{"weak-rsa"}, want: apt.WeakKey, says: "whose 1024 bits of RSA are too few", stricter: true},
	{summary: "1024 bits of DSA", signed: "weak-dsa.inrelease", keys: []string{"weak-dsa"}, want: apt.WeakKey, says: "whose 1024 bits of DSA are too few", stricter: true},
	{summary: "a good one and one by nobody known", signed: "good-and-stranger.inrelease", keys: []string{"ed25519"}, want: accepted},
	{summary: "the same, detached", signed: "good-and-unknown.gpg", keys: []string{"ed25519"}, want: accepted},
	{summary: "a good one and one by an expired key", signed: "good-and-expired.inrelease", keys: []string{"ed25519", "expired"}, want: accepted},
	{summary: "of those, the expired key alone", signed: "good-and-expired.inrelease", keys: []string{"expired"}, want: apt.ExpiredKey, says: "; it is signed by the key "},
	{summary: "a good one and a wrong one", signed: "good-and-bad.gpg", keys: []string{"ed25519", "rsa"}, want: apt.BadSignature},
	{summary: "a good one and a wrong one by nobody known", signed: "good-and-bad.gpg", keys: []string{"ed25519"}, want: accepted},
	{summary: "a good one and one over SHA-1", signed: "sha1-and-good.gpg", keys: []string{"ed25519", "rsa"}, want: accepted},
	{summary: "of those, the one over SHA-1 alone", signed: "sha1-and-good.gpg", keys: []string{"rsa"}, want: apt.WeakDigest},
}

func verify(t testing.TB, signed string, source apt.Source, now time.Time) error {
	t.Helper()
	data := fixture(t, signed+".asc")
	if strings.HasSuffix(signed, ".gpg") {
		return apt.VerifyDetached(fixture(t, "Release"), data, source, now)
	}
	text, err := apt.VerifyInRelease(data, source, now)
	if err == nil && !strings.HasPrefix(string(fixture(t, "Release")), string(text)) {
		t.Errorf("what was signed comes out as another text:\n%s", text)
	}
	return err
}

func why(t testing.TB, err error) apt.Why {
	t.Helper()
	if err == nil {
		return accepted
	}
	var e *apt.SignatureError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a SignatureError", err)
	}
	return e.Why
}

func TestSignatures(t *testing.T) {
	for _, test := range signatureTests {
		t.Run(test.summary, func(t *testing.T) {
			var source apt.Source
			for _, name := range test.keys {
				source.SignedBy = append(source.SignedBy, keyring(t, name))
			}
			err := verify(t, test.signed, source, theDay)
			if got := why(t, err); got != test.want || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %d, %v; want %d, %q", got, err, test.want, test.says)
			}
			// Binary keyrings are as good as armored ones.
			for i, name := range test.keys {
				source.SignedBy[i].Data = binary(t, name)
			}
			if got := why(t, verify(t, test.signed, source, theDay)); got != test.want {
				t.Errorf("with binary keyrings: got %d, want %d", got, test.want)
			}
		})
	}
}

// TestGpgvAgrees compares with what apt makes of gpgv's verdicts: one good
// signature, and none that is bad.
func TestGpgvAgrees(t *testing.T) {
	gpgv := testtool.Need(t, "gpgv")
	for _, test := range signatureTests {
		if len(test.keys) == 0 {
			continue
		}
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{"--homedir", dir, "--status-fd", "1"}
			for _, name := range test.keys {
				ring := filepath.Join(dir, name+".gpg")
				if err := os.WriteFile(ring, binary(t, name), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--keyring", ring)
			}
			args = append(args, filepath.Join("testdata", "signatures", test.signed+".asc"))
			if strings.HasSuffix(test.signed, ".gpg") {
				args = append(args, filepath.Join("testdata", "signatures", "Release"))
			}
			out, _ := exec.Command(gpgv, args...).Output() // its status is a number of its own
			good := goodByApt(string(out))
			if want := test.want == accepted || test.stricter; good != want {
				t.Errorf("gpgv accepts it: %v, want %v\n%s", good, want, out)
			}
		})
	}
}

// goodByApt reads gpgv's status lines as apt does (methods/gpgv.cc).
func goodByApt(status string) bool {
	good, isGood := false, false
	for line := range strings.SplitSeq(status, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[1] {
		case "NEWSIG":
			isGood = false
		case "GOODSIG":
			isGood = true
		case "VALIDSIG":
			// The tenth is the digest: 8 to 11 are SHA-2's.
			good = good || isGood && slices.Contains([]string{"8", "9", "10", "11"}, fields[9])
		case "BADSIG":
			return false
		}
	}
	return good
}

func TestFingerprints(t *testing.T) {
	primary, sub := keyID(t, "subkey")[0], keyID(t, "subkey")[1]
	rsa := keyID(t, "rsa")[0]
	tests := []struct {
		summary, signed, key string
		fingerprints         []string
		want                 apt.Why
	}{
		{"the key's own", "rsa.inrelease", "several", []string{rsa}, accepted},
		{"another key's", "ed25519.inrelease", "several", []string{rsa}, apt.UnknownKey},
		{"one of two", "rsa.inrelease", "several", []string{keyID(t, "ed25519")[0], rsa}, accepted},
		{"with its subkeys", "subkey.inrelease", "subkey", []string{primary}, accepted},
		{"without its subkeys", "subkey.inrelease", "subkey", []string{primary + "!"}, apt.UnknownKey},
		{"the subkey's own", "subkey.inrelease", "subkey", []string{sub + "!"}, accepted},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			source := apt.Source{SignedBy: []apt.Keyring{keyring(t, test.key)}, Fingerprints: test.fingerprints}
			err := verify(t, test.signed, source, theDay)
			if got := why(t, err); got != test.want {
				t.Errorf("got %d, %v; want %d", got, err, test.want)
			}
		})
	}
}

// TestClock: by a clock that is behind, a key that is not made yet counts for
// what is signed later; the Release file's date tells of the clock.
func TestClock(t *testing.T) {
	source := apt.Source{SignedBy: []apt.Keyring{keyring(t, "rsa")}}
	if err := verify(t, "rsa.inrelease", source, time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Error(err)
	}
	source.SignedBy = []apt.Keyring{keyring(t, "expired")}
	if err := verify(t, "expired.inrelease", source, time.Date(2023, 6, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Errorf("while the key was valid: %v", err)
	}
}

// TestUnfitKeys: a key that is not meant for signing signs nothing, and none
// signs before it is made.
func TestUnfitKeys(t *testing.T) {
	made := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		summary string
		signs   bool
		at      time.Time
		want    apt.Why
	}{
		{"for signing", true, theDay, accepted},
		{"for certifying alone", false, theDay, apt.UnfitKey},
		{"before it was made", true, made.AddDate(-1, 0, 0), apt.UnfitKey},
	} {
		t.Run(test.summary, func(t *testing.T) {
			config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return made }}
			key, err := openpgp.NewEntity("it", "", "", config)
			if err != nil {
				t.Fatal(err)
			}
			key.Subkeys = nil
			for name, identity := range key.Identities {
				identity.SelfSignature.FlagSign = test.signs
				if err := identity.SelfSignature.SignUserId(name, key.PrimaryKey, key.PrivateKey, config); err != nil {
					t.Fatal(err)
				}
			}
			release := fixture(t, "Release")
			signature := &packet.Signature{
				Version: 4, SigType: packet.SigTypeBinary, PubKeyAlgo: key.PrimaryKey.PubKeyAlgo, Hash: crypto.SHA256,
				CreationTime: test.at, IssuerKeyId: &key.PrimaryKey.KeyId,
			}
			h := crypto.SHA256.New()
			h.Write(release)
			var ring, signed bytes.Buffer
			if err := errors.Join(key.Serialize(&ring), signature.Sign(h, key.PrivateKey, config), signature.Serialize(&signed)); err != nil {
				t.Fatal(err)
			}
			err = apt.VerifyDetached(release, signed.Bytes(), apt.Source{SignedBy: []apt.Keyring{{Name: "it", Data: ring.Bytes()}}}, theDay)
			if got := why(t, err); got != test.want {
				t.Errorf("got %d, %v; want %d", got, err, test.want)
			}
		})
	}
}

func TestFraming(t *testing.T) {
	good := string(fixture(t, "rsa.inrelease.asc"))
	source := apt.Source{SignedBy: []apt.Keyring{keyring(t, "rsa")}}
	tests := []struct {
		summary, file string
		want          apt.Why
		says          string
	}{
		{"as it is", good, accepted, ""},
		{"with CR LF", strings.ReplaceAll(good, "\n", "\r\n"), accepted, ""},
		{"an empty line before it", "\n" + good, accepted, ""},
		{"something before it", "Suite: evil\n" + good, apt.Unsigned, `it begins with "Suite: evil"`},
		{"something behind it", good + "Suite: evil\n", apt.Unsigned, "something follows the signature"},
		{"another message behind it", good + good, apt.Unsigned, "something follows the signature"},
		{"empty", "", apt.Unsigned, "it is empty"},
		{"a log-in page", "<!DOCTYPE html>\n<html>", apt.Unsigned, "it is an HTML page: was it a log-in or error page?"},
		{"a Release file", string(fixture(t, "Release")), apt.Unsigned, `it begins with "Origin: Example"`},
		{"cut short", good[:len(good)-60], apt.Unsigned, "does not go on like one"},
		{"no empty line after its head", strings.Replace(good, "Hash: SHA512\n\n", "Hash: SHA512\nSuite: evil\n", 1), apt.Unsigned, ""},
		{"an unknown header", strings.Replace(good, "Hash: SHA512", "Comment: x", 1), apt.Unsigned, ""},
		{"white space at a line's end, which no signature is over", strings.Replace(good, "Label: Example", "Label: Example \t", 1), accepted, ""},
		{"no signature in its armor", good[:strings.Index(good, "-----BEGIN PGP SIGNATURE-----")] + "-----BEGIN PGP SIGNATURE-----\n\n=twTO\n-----END PGP SIGNATURE-----\n", apt.Unsigned, "not signed"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			_, err := apt.VerifyInRelease([]byte(test.file), source, theDay)
			if got := why(t, err); got != test.want || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %d, %v; want %d, %q", got, err, test.want, test.says)
			}
		})
	}
	// A key in place of a signature, and far more signatures than there are.
	if got := why(t, apt.VerifyDetached(fixture(t, "Release"), binary(t, "rsa"), source, theDay)); got == accepted {
		t.Errorf("a key as a signature: %d", got)
	}
	if got := why(t, apt.VerifyDetached(fixture(t, "Release"), bytes.Repeat(fixture(t, "rsa.gpg.asc"), 20), source, theDay)); got != apt.Unsigned {
		t.Errorf("twenty signatures: %d", got)
	}
	if got := why(t, apt.VerifyDetached(fixture(t, "Release"), bytes.Repeat(fixture(t, "rsa.gpg.asc"), 2), source, theDay)); got != accepted {
		t.Errorf("two blocks of signatures: %d", got)
	}
}

// TestBrokenKeyrings: what is wrong with a key does not touch its neighbours,
// and is told where it matters.
func TestBrokenKeyrings(t *testing.T) {
	rsa, dsa := binary(t, "rsa"), binary(t, "dsa")
	tests := []struct {
		summary string
		ring    []byte
		want    apt.Why
		says    string
	}{
		{"two armored blocks", slices.Concat(fixture(t, "dsa.key.asc"), fixture(t, "rsa.key.asc")), accepted, ""},
		{"text around the armor", slices.Concat([]byte("the key:\n"), fixture(t, "rsa.key.asc"), []byte("that was it\n")), accepted, ""},
		{"after half a key", slices.Concat(dsa[:len(dsa)/2], rsa), apt.UnknownKey, "a key cannot be read"},
		{"before half a key", slices.Concat(rsa, dsa[:len(dsa)/2]), accepted, ""},
		{"before bytes that are no key", slices.Concat(rsa, []byte("nonsense")), apt.UnknownKey, "at byte "},
		{"after something that is no key", slices.Concat([]byte{0xcb, 5, 'b', 0, 0, 0, 0}, rsa), accepted, ""},
		{"broken armor", []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!!\n"), apt.UnknownKey, "its armor is broken"},
		{"armor around nothing", []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nnonsense\n"), apt.UnknownKey, "a key cannot be read"},
		{"not there", nil, apt.UnknownKey, "the keyring it is not there"},
		{"no user", slices.Concat(rsa[:bytes.Index(rsa, []byte("rsa"))-2]), apt.UnknownKey, "a key cannot be read"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			source := apt.Source{SignedBy: []apt.Keyring{{Name: "it", Data: test.ring}}}
			err := verify(t, "rsa.inrelease", source, theDay)
			if got := why(t, err); got != test.want || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %d, %v; want %d, %q", got, err, test.want, test.says)
			}
		})
	}
}

func FuzzInRelease(f *testing.F) {
	source := apt.Source{SignedBy: []apt.Keyring{keyring(f, "several")}}
	for _, name := range []string{"rsa", "ed25519", "good-and-stranger", "md5-message", "tampered", "expired"} {
		f.Add(fixture(f, name+".inrelease.asc"))
	}
	want := string(fixture(f, "Release"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := apt.VerifyInRelease(data, source, theDay)
		if err == nil && !sameText(string(text), want) {
			t.Errorf("signed, it says, is %q", text)
		}
	})
}

// sameText says whether texts differ in nothing but what clear-signing leaves
// out: white space at the ends of lines.
func sameText(a, b string) bool {
	trim := func(s string) string {
		lines := strings.Split(s, "\n")
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], " \t\r")
		}
		return strings.TrimRight(strings.Join(lines, "\n"), "\n")
	}
	return trim(a) == trim(b)
}

func FuzzKeyring(f *testing.F) {
	for _, name := range []string{"several", "subkey", "sha1-self", "revoked"} {
		f.Add(binary(f, name))
		f.Add(fixture(f, name+".key.asc"))
	}
	signed := fixture(f, "stranger.inrelease.asc")
	f.Fuzz(func(t *testing.T, ring []byte) {
		if _, err := apt.VerifyInRelease(signed, apt.Source{SignedBy: []apt.Keyring{{Name: "it", Data: ring}}}, theDay); err == nil {
			t.Error("a key that nobody made has signed it")
		}
	})
}
