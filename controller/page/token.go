package page

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
)

// tokenBytes is how much of a token cannot be guessed.
const tokenBytes = 24

// tokenPattern is what a token looks like: base64, as RFC 4648 has it for URLs.
var tokenPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{32}$`)

// A tokenKeeper keeps the operator's token in a file that root reads. It is made
// once; whoever removes the file, or asks for another, has a new one.
type tokenKeeper struct {
	path string

	mu    sync.Mutex
	token enrol.Secret
}

// openToken reads the token, and makes it where there is none that could be one.
func openToken(path string) (*tokenKeeper, error) {
	k := &tokenKeeper{path: path}
	token, err := readToken(path)
	if err == nil {
		k.token = token
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoToken) {
		return nil, fmt.Errorf("cannot read the page's token: %w", err)
	}
	_, err = k.renew()
	return k, err
}

// errNoToken is a file that holds something else than a token, or one that
// others could have read.
var errNoToken = errors.New("it holds no token that is a secret")

func readToken(path string) (enrol.Secret, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return "", errNoToken
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return "", err
	}
	token := strings.TrimSuffix(string(data), "\n")
	if !tokenPattern.MatchString(token) {
		return "", errNoToken
	}
	return enrol.Secret(token), nil
}

// renew makes another token. The old one opens nothing from now on.
func (k *tokenKeeper) renew() (enrol.Secret, error) {
	var secret [tokenBytes]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", err
	}
	token := base64.RawURLEncoding.EncodeToString(secret[:])
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(k.path), 0o755); err != nil {
		return "", fmt.Errorf("cannot keep the page's token: %w", err)
	}
	if err := atomicfile.WriteBytes(k.path, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("cannot keep the page's token: %w", err)
	}
	k.token = enrol.Secret(token)
	return k.token, nil
}

// get is the token.
func (k *tokenKeeper) get() enrol.Secret {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.token
}

// opens says whether what somebody shows is the token, in a time that tells
// nothing of it.
func (k *tokenKeeper) opens(shown string) bool {
	have, want := sha256.Sum256([]byte(shown)), sha256.Sum256([]byte(k.get()))
	return subtle.ConstantTimeCompare(have[:], want[:]) == 1
}
