package spec

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// passwordHashes are the forms of crypt(5) that are fit for use; the salts'
// and digests' lengths are those of libxcrypt.
var passwordHashes = regexp.MustCompile(`^(` + strings.Join([]string{
	`\$g?y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}`, // yescrypt, gost-yescrypt
	`\$7\$[./A-Za-z0-9]{11,97}\$[./A-Za-z0-9]{43}`,                  // scrypt
	`\$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{53}`,                        // bcrypt
	`\$6\$(rounds=[1-9][0-9]{0,8}\$)?[^$:\s]{1,16}\$[./A-Za-z0-9]{86}`,
	`\$5\$(rounds=[1-9][0-9]{0,8}\$)?[^$:\s]{1,16}\$[./A-Za-z0-9]{43}`,
}, "|") + `)$`)

// passwordHash checks the hash, which no message may show: it may be the
// plain password.
func (d *decoder) passwordHash(v item) string {
	switch {
	case passwordHashes.MatchString(v.text):
		return v.text
	case strings.HasPrefix(v.text, "$1$"):
		d.problem(v, "MD5 hashes ($1$) are guessed in no time: make another with `mkpasswd -m yescrypt` or `openssl passwd -6`")
	case strings.HasPrefix(v.text, "$"):
		d.problem(v, "this looks like a password hash but is not a whole one: copy all of what `mkpasswd -m yescrypt` or `openssl passwd -6` printed")
	case strings.Trim(v.text, "!*") == "":
		d.problem(v, "for an account without a password, leave the key out")
	default:
		d.problem(v, "this is not a password hash; a plain password does not belong here: make a hash with `mkpasswd -m yescrypt` or `openssl passwd -6`")
	}
	return ""
}

// keyLinePattern finds what can only be a line of authorized_keys: a type of
// key as a word of its own, with something after it.
var keyLinePattern = regexp.MustCompile(`(^|[\s"])(ssh-(rsa|dss|ed25519)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)(-cert-v01@openssh\.com)?(\s|$)`)

const maxKeyFile = 256 << 10

func (d *decoder) authorizedKeys(items []item) []string {
	var lines []string
	add := func(line string) {
		if !contains(lines, line) { // the agent's key and its file are often both named
			lines = append(lines, line)
		}
	}
	for _, it := range items {
		switch {
		case isPrivateKey([]byte(it.text)):
			d.problem(it, "this is a PRIVATE key, which must never leave your machine: remove it from this file, and name its .pub file")
		case keyLinePattern.MatchString(it.text) || strings.Contains(it.text, "\n"):
			for _, line := range keyLines([]byte(it.text)) {
				key, err := parseKeyLine(line.text)
				if err != nil {
					d.problem(it, "%s", err)
					continue
				}
				add(key)
			}
		case it.text == "":
			d.problem(it, "is empty: remove the entry, or write what belongs there")
		default:
			for _, key := range d.keyFile(it) {
				add(key)
			}
		}
	}
	return lines
}

// keyFile reads a file of public keys.
func (d *decoder) keyFile(it item) []string {
	path, ok := d.existingFile(it, "the key file")
	if !ok {
		return nil
	}
	data, err := readLimited(path, maxKeyFile+1)
	switch {
	case err != nil:
		d.problem(it, "the key file %s cannot be read: %s", quote(it.text), reason(err))
		return nil
	case len(data) > maxKeyFile:
		d.problem(it, "%s is larger than 256 KiB: this is no file of public keys", quote(it.text))
		return nil
	case isPrivateKey(data):
		hint := "name the file with the public key"
		if _, err := os.Stat(path + ".pub"); err == nil {
			hint = "name " + it.text + ".pub"
		}
		d.problem(it, "%s is a PRIVATE key, which must never leave your machine: %s", quote(it.text), hint)
		return nil
	case bytes.Contains(data, []byte("---- BEGIN SSH2 PUBLIC KEY")):
		d.problem(it, "%s is in the format of other programs: turn it into OpenSSH's with `ssh-keygen -i -f %s`", quote(it.text), it.text)
		return nil
	}
	var keys []string
	lines := keyLines(data)
	for _, line := range lines {
		key, err := parseKeyLine(line.text)
		if err != nil {
			d.problem(it, "line %d of %s: %s", line.number, quote(it.text), err)
			continue
		}
		keys = append(keys, key)
	}
	if len(lines) == 0 {
		d.problem(it, "there is no key in %s", quote(it.text))
	}
	d.privateKeyBeside(path)
	return keys
}

// privateKeyBeside remembers the private key that belongs to a file of public
// ones, so that ssh can be told of it.
func (d *decoder) privateKeyBeside(path string) {
	private, ok := strings.CutSuffix(path, ".pub")
	if !ok {
		return
	}
	files := &d.cluster.User.KeyFiles
	if info, err := os.Stat(private); err == nil && info.Mode().IsRegular() && !contains(*files, private) {
		*files = append(*files, private)
	}
}

func isPrivateKey(data []byte) bool {
	return privateKeyPattern.Match(data)
}

var privateKeyPattern = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|^PuTTY-User-Key-File|SSH PRIVATE KEY FILE FORMAT`)

type keyLine struct {
	number int
	text   string
}

// keyLines gives the lines that are neither blank nor comments.
func keyLines(data []byte) []keyLine {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var lines []keyLine
	for i, text := range strings.Split(string(data), "\n") {
		text = strings.TrimSpace(text)
		if text != "" && !strings.HasPrefix(text, "#") {
			lines = append(lines, keyLine{i + 1, text})
		}
	}
	return lines
}

// minRSABits is what is still safe; OpenSSH of itself takes 1024.
const minRSABits = 2048

// parseKeyLine checks a line of authorized_keys, and gives it as it goes into
// the image.
func parseKeyLine(line string) (string, error) {
	if strings.IndexFunc(line, func(r rune) bool { return r == unicode.ReplacementChar || unicode.IsControl(r) && r != '\t' }) >= 0 {
		return "", errors.New("this is no text, so it is no public key")
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return "", errors.New("this is not a public SSH key: it looks like `ssh-ed25519 AAAA… me@host`")
	}
	// The parser takes a line with rubbish where the type stands for one with
	// options; sshd would not.
	encoded := base64.StdEncoding.EncodeToString(key.Marshal())
	fields := strings.Fields(line)
	i := len(fields)
	for j, field := range fields {
		if strings.TrimRight(field, "=") == strings.TrimRight(encoded, "=") {
			i = j
			break
		}
	}
	if i == len(fields) || i == 0 || fields[i-1] != key.Type() && !(len(options) > 0 && strings.HasSuffix(fields[i-1], key.Type())) {
		return "", fmt.Errorf("the line says another type than its key has, which is %s: copy it anew", key.Type())
	}
	if _, certificate := key.(*ssh.Certificate); certificate {
		return "", errors.New("this is a certificate, not a key: name the key's own .pub file")
	}
	if key.Type() == "ssh-dss" {
		return "", errors.New("DSA keys are no longer taken by OpenSSH: make one with `ssh-keygen -t ed25519`")
	}
	if crypto, ok := key.(ssh.CryptoPublicKey); ok {
		if r, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < minRSABits {
			return "", fmt.Errorf("the RSA key has %d bits only: make one with `ssh-keygen -t ed25519`", r.N.BitLen())
		}
	}
	return line, nil
}
