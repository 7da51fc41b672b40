package apt

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

const (
	clearsignArmor = "-----BEGIN PGP SIGNED MESSAGE-----"
	signatureArmor = "-----BEGIN PGP SIGNATURE-----"
)

// maxSignatures is far beyond the two or three that an archive's Release file
// has, and bounds the work that a hostile one makes.
const maxSignatures = 16

// minRSA and minDSA are the shortest keys that count, in bits, less one since
// a modulus may begin with a zero.
const (
	minRSA = 2047
	minDSA = 2047
)

// A signedText is a text and the signatures over it.
type signedText struct {
	text       []byte // what is to be read
	canonical  []byte // what was signed, where that differs: with CR LF
	signatures []byte // binary
}

// splitInRelease takes a clear-signed file apart. There may be nothing but the
// one message in it: whatever stood outside would look signed, and is not.
func splitInRelease(data []byte) (signedText, error) {
	broken := func(format string, args ...any) (signedText, error) {
		return signedText{}, &SignatureError{Why: Unsigned, Detail: fmt.Sprintf("its InRelease file is no clear-signed message (%s)", fmt.Sprintf(format, args...)),
			Remedy: "what answers there is no archive, or something on the way changes what it says: check the URI and the network"}
	}
	data = bytes.TrimLeft(data, "\r\n")
	if !bytes.HasPrefix(data, []byte(clearsignArmor)) {
		return broken("%s", whatIs(data))
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return broken("it begins like one, and does not go on like one")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return broken("something follows the signature")
	}
	signatures, err := io.ReadAll(block.ArmoredSignature.Body)
	if err != nil {
		return broken("the signature's armor is broken: %v", err)
	}
	return signedText{text: block.Plaintext, canonical: block.Bytes, signatures: signatures}, nil
}

// splitDetached reads the file Release.gpg for a Release file: armored or
// binary.
func splitDetached(release, signature []byte) (signedText, error) {
	s := signedText{text: release}
	if !bytes.Contains(signature, []byte(signatureArmor)) {
		s.signatures = signature
		return s, nil
	}
	for rest := signature; ; {
		i := bytes.Index(rest, []byte(signatureArmor))
		if i < 0 {
			return s, nil
		}
		one := rest[i:]
		rest = one[1:]
		if next := bytes.Index(rest, []byte(signatureArmor)); next >= 0 {
			one = one[:next+1]
		}
		block, err := armor.Decode(bytes.NewReader(one))
		var body []byte
		if err == nil {
			body, err = io.ReadAll(block.Body)
		}
		if err != nil {
			return s, &SignatureError{Why: Unsigned, Detail: fmt.Sprintf("the armor of its Release.gpg is broken (%v)", err), Remedy: "try again later, or another mirror"}
		}
		s.signatures = append(s.signatures, body...)
	}
}

// whatIs tells what came in place of a signed file.
func whatIs(data []byte) string {
	switch head := bytes.ToLower(data[:min(len(data), 256)]); {
	case len(data) == 0:
		return "it is empty"
	case bytes.Contains(head, []byte("<html")) || bytes.Contains(head, []byte("<!doctype")):
		return "it is an HTML page: was it a log-in or error page?"
	}
	return "it begins with " + quoteStart(string(data))
}

func quoteStart(text string) string {
	const most = 40
	if text, _, _ = strings.Cut(text, "\n"); len(text) > most {
		return fmt.Sprintf("%q…", text[:most])
	}
	return fmt.Sprintf("%q", text)
}

// verify checks the signatures over a text, as gpgv and apt do: one by a key
// that counts must be good, and none by such a key may be wrong. The error is
// a [*SignatureError].
func (s *signedText) verify(source *Source, now time.Time) error {
	keys, problems := readKeys(source.SignedBy)
	keys = selected(keys, source.Fingerprints)
	packets := packet.NewReader(bytes.NewReader(s.signatures))
	good, seen := false, 0
	var refused []*SignatureError
	for {
		p, err := packets.NextWithUnsupported()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return &SignatureError{Why: Unsigned, Detail: fmt.Sprintf("its signature cannot be read (%v)", err), Remedy: "try again later, or another mirror"}
		}
		if seen++; seen > maxSignatures {
			return &SignatureError{Why: Unsigned, Detail: fmt.Sprintf("it has more than %d signatures", maxSignatures), Remedy: "that is no archive's Release file"}
		}
		var problem *SignatureError
		switch p := p.(type) {
		case *packet.Signature:
			problem = s.check(p, keys, source, now)
		case *packet.UnsupportedPacket:
			problem = unsupported(p)
		default:
			problem = &SignatureError{Why: Unsigned, Detail: "something that is no signature stands in place of one", Remedy: "try again later, or another mirror"}
		}
		switch {
		case problem == nil:
			good = true
		case problem.Why == BadSignature:
			return problem
		default:
			refused = append(refused, problem)
		}
	}
	switch {
	case good:
		return nil
	case len(refused) == 0:
		return &SignatureError{Why: Unsigned, Detail: "its Release file is not signed", Remedy: "hatchery uses signed archives only"}
	}
	// What a known key did tells more than that another one is not known.
	slices.SortStableFunc(refused, func(a, b *SignatureError) int { return rank(a) - rank(b) })
	e := *refused[0]
	for _, other := range refused[1:] {
		if other.Detail != e.Detail {
			e.Detail += "; " + other.Detail
		}
	}
	if e.Why == UnknownKey && len(problems) > 0 {
		e.Detail += fmt.Sprintf(" (%v)", errors.Join(problems...))
	}
	return &e
}

func rank(e *SignatureError) int {
	if e.Why == UnknownKey {
		return 1
	}
	return 0
}

// unsupported tells of a signature that cannot be read: those over MD5 are
// none that this library knows.
func unsupported(p *packet.UnsupportedPacket) *SignatureError {
	return &SignatureError{Why: WeakDigest, Detail: fmt.Sprintf("it is signed in a way that does not count (%v)", p.Error),
		Remedy: "the archive has to sign over SHA-256 or better"}
}

// selected leaves the keys that a source's fingerprints name, where it names
// some: a key by its own fingerprint with all its subkeys, or one of them.
func selected(keys openpgp.EntityList, fingerprints []string) openpgp.EntityList {
	if len(fingerprints) == 0 {
		return keys
	}
	var left openpgp.EntityList
	for _, e := range keys {
		if slices.Contains(fingerprints, hexFingerprint(e.PrimaryKey)) || slices.ContainsFunc(candidates(e), func(k *packet.PublicKey) bool {
			return slices.Contains(fingerprints, hexFingerprint(k)) || slices.Contains(fingerprints, hexFingerprint(k)+"!")
		}) {
			left = append(left, e)
		}
	}
	return left
}

// candidates are a key and its subkeys.
func candidates(e *openpgp.Entity) []*packet.PublicKey {
	all := []*packet.PublicKey{e.PrimaryKey}
	for i := range e.Subkeys {
		all = append(all, e.Subkeys[i].PublicKey)
	}
	return all
}

// counts says whether a source's fingerprints let signatures of a key count.
func counts(e *openpgp.Entity, k *packet.PublicKey, fingerprints []string) bool {
	return len(fingerprints) == 0 || slices.Contains(fingerprints, hexFingerprint(e.PrimaryKey)) ||
		slices.Contains(fingerprints, hexFingerprint(k)) || slices.Contains(fingerprints, hexFingerprint(k)+"!")
}

// check judges one signature; nil is a good one.
func (s *signedText) check(sig *packet.Signature, keys openpgp.EntityList, source *Source, now time.Time) *SignatureError {
	var problem *SignatureError
	for _, e := range keys {
		for i, k := range candidates(e) {
			if !issued(sig, k) || !counts(e, k, source.Fingerprints) {
				continue
			}
			var subkey *openpgp.Subkey
			if i > 0 {
				subkey = &e.Subkeys[i-1]
			}
			p := s.judge(sig, e, subkey, source, now)
			if p == nil {
				return nil
			}
			// The same key may lie in several keyrings, older and newer.
			if problem == nil || problem.Why == BadSignature {
				problem = p
			}
		}
	}
	if problem != nil {
		return problem
	}
	id := issuer(sig)
	detail := fmt.Sprintf("it is signed by the key %s, which is not in %s", id, names(source.SignedBy))
	if len(source.Fingerprints) > 0 {
		detail += fmt.Sprintf(" as one of %s", strings.Join(source.Fingerprints, ", "))
	}
	remedy := "a newer base image may have the archive's new key; without one the archive cannot be told from an impostor"
	if source.Own {
		remedy = "give the archive's own key: its site has it"
	}
	return &SignatureError{Why: UnknownKey, Key: id, Detail: detail, Remedy: remedy}
}

// issued says whether a signature claims to be by a key.
func issued(sig *packet.Signature, k *packet.PublicKey) bool {
	if len(sig.IssuerFingerprint) > 0 {
		return bytes.Equal(sig.IssuerFingerprint, k.Fingerprint)
	}
	return sig.IssuerKeyId != nil && *sig.IssuerKeyId == k.KeyId
}

func issuer(sig *packet.Signature) string {
	switch {
	case len(sig.IssuerFingerprint) > 0:
		return fmt.Sprintf("%X", sig.IssuerFingerprint)
	case sig.IssuerKeyId != nil:
		return fmt.Sprintf("%016X", *sig.IssuerKeyId)
	}
	return "(it does not say which)"
}

// judge judges a signature that claims to be by a key that is there.
func (s *signedText) judge(sig *packet.Signature, e *openpgp.Entity, subkey *openpgp.Subkey, source *Source, now time.Time) *SignatureError {
	key := e.PrimaryKey
	if subkey != nil {
		key = subkey.PublicKey
	}
	name := hexFingerprint(key)
	no := func(why Why, remedy, format string, args ...any) *SignatureError {
		return &SignatureError{Why: why, Key: name, Detail: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	if detail := s.mismatch(sig, key); detail != "" {
		return no(BadSignature, "somebody on the way, or the mirror, has changed it: try another mirror",
			"its Release file is not what the key %s has signed (%s)", name, detail)
	}
	const better = "the archive has to sign over SHA-256 or better"
	switch sig.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA3_256, crypto.SHA3_512:
	default:
		return no(WeakDigest, better, "the key %s has signed it over %v, of which others can be made that look signed", name, sig.Hash)
	}
	if why := weak(key); why != "" {
		return no(WeakKey, "the archive needs a stronger key", "it is signed by the key %s, %s", name, why)
	}
	// A signature of the future is for the Release file's Date to tell of.
	if sig.CreationTime.After(now) {
		now = sig.CreationTime
	}
	newer := "a newer base image may have the archive's new key"
	if source.Own {
		newer = "give the archive's present key: its site has it"
	}
	if p := keyProblem(e, subkey, name, newer, now); p != nil {
		return p
	}
	for _, n := range sig.Notations {
		if n.IsCritical && n.Name != "salt@notations.openpgpjs.org" {
			return no(UnfitKey, "the archive has to sign in a plainer way", "the signature of the key %s has a condition that is not known (%s)", name, n.Name)
		}
	}
	if sig.CreationTime.Before(key.CreationTime) {
		return no(UnfitKey, newer, "the signature of the key %s is older than the key", name)
	}
	if sig.SigExpired(now) {
		return no(ExpiredSignature, "try another mirror, or later", "the signature of the key %s was valid for some time, which is over", name)
	}
	return nil
}

// mismatch says what is wrong where the text is not what was signed.
func (s *signedText) mismatch(sig *packet.Signature, key *packet.PublicKey) string {
	if !sig.Hash.Available() {
		return fmt.Sprintf("the digest %v is not known", sig.Hash)
	}
	h, err := sig.PrepareVerify()
	if err != nil {
		return err.Error()
	}
	text := s.text
	if s.canonical != nil {
		text = s.canonical
	}
	switch sig.SigType {
	case packet.SigTypeBinary:
		h.Write(text)
	case packet.SigTypeText:
		openpgp.NewCanonicalTextHash(h).Write(text)
	default:
		return fmt.Sprintf("it is a signature of the type %d, and none over a file", sig.SigType)
	}
	if err := key.VerifySignature(h, sig); err != nil {
		return strings.TrimPrefix(err.Error(), "openpgp: ")
	}
	return ""
}

// weak says why a key is not strong enough.
func weak(k *packet.PublicKey) string {
	bits, err := k.BitLength()
	if err != nil {
		return "whose length cannot be told"
	}
	switch k.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		if bits < minRSA {
			return fmt.Sprintf("whose %d bits of RSA are too few", bits)
		}
	case packet.PubKeyAlgoDSA:
		if bits < minDSA {
			return fmt.Sprintf("whose %d bits of DSA are too few", bits)
		}
	}
	return ""
}

// keyProblem says why a key is not to be believed at a time.
func keyProblem(e *openpgp.Entity, subkey *openpgp.Subkey, name, newer string, now time.Time) *SignatureError {
	no := func(why Why, format string, args ...any) *SignatureError {
		return &SignatureError{Why: why, Key: name, Detail: fmt.Sprintf(format, args...), Remedy: newer}
	}
	rules := keyRules()
	bound, err := e.VerifyPrimaryKey(now, rules)
	if err == nil && subkey != nil {
		bound, err = subkey.Verify(now, rules)
	}
	switch {
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return no(RevokedKey, "it is signed by the key %s, which its owner has withdrawn", name)
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return no(ExpiredKey, "it is signed by the key %s, which is not valid any more%s", name, since(e, subkey, rules))
	case err != nil:
		return no(UnfitKey, "it is signed by the key %s, which cannot be used (%v)", name, err)
	case bound.FlagsValid && !bound.FlagSign:
		return no(UnfitKey, "it is signed by the key %s, which is not meant for signing", name)
	}
	return nil
}

// since says when a key has ended, where that can be told.
func since(e *openpgp.Entity, subkey *openpgp.Subkey, rules *packet.Config) string {
	end := func(k *packet.PublicKey, self *packet.Signature, err error) time.Time {
		if err != nil || self == nil || self.KeyLifetimeSecs == nil || *self.KeyLifetimeSecs == 0 {
			return time.Time{}
		}
		return k.CreationTime.Add(time.Duration(*self.KeyLifetimeSecs) * time.Second)
	}
	self, err := e.PrimarySelfSignature(time.Time{}, rules)
	at := end(e.PrimaryKey, self, err)
	if subkey != nil {
		bound, err := subkey.LatestValidBindingSignature(time.Time{}, rules)
		if t := end(subkey.PublicKey, bound, err); !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if at.IsZero() {
		return ""
	}
	return " (since " + at.UTC().Format(time.DateOnly) + ")"
}
