package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
)

// The files of the folder.
const (
	ignoreFile = ".gitignore"
	lockFile   = ".lock"
	rootFile   = "identity.json"
	caKeyFile  = "ca.key"
	caCertFile = "ca.crt"
)

// Nobody but the owner has any business here.
const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// maxFile is more than any file of the folder has.
const maxFile = 64 << 10

// lockPatience is how long an operation waits for another process. The longest
// that one takes is well under a second.
const lockPatience = 30 * time.Second

// A Store is the identity folder of a cluster. It is safe for use by several
// goroutines; several processes exclude each other for the length of one call.
type Store struct {
	dir     string
	cluster string
	root    rootState
	caKey   *ecdsa.PrivateKey
	ca      *x509.Certificate
	caPEM   []byte
	notices []string

	// unwritten holds, in a preview, what would have been written; elsewhere
	// it is nil.
	unwritten map[string][]byte

	mu      sync.Mutex
	diskIDs map[string]uint32
	reached map[string][]netip.Addr // other addresses that certificates are for
}

var clusterPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Open opens the identity folder dir of the named cluster, and makes what is
// missing of a new one. A folder of another cluster gives an
// [OtherClusterError], a damaged one a [DamagedError].
func Open(dir, cluster string) (*Store, error) {
	if err := checkCluster(cluster); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, cluster: cluster}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("cannot make the identity folder: %w", err)
	}
	if err := s.refuseForeign(); err != nil {
		return nil, err
	}
	return s, s.locked(s.open)
}

func checkCluster(name string) error {
	if !clusterPattern.MatchString(name) {
		return fmt.Errorf("%q is not the name of a cluster", name)
	}
	return nil
}

// refuseForeign keeps hatchery from taking over a folder that is somebody
// else's, before anything in it is touched.
func (s *Store) refuseForeign() error {
	entries, err := s.list("")
	if err != nil {
		return fmt.Errorf("cannot read the identity folder: %w", err)
	}
	content := false
	for _, name := range entries {
		content = content || name[0] != '.'
	}
	// Asked last: another process may have made all this while we looked, and
	// it makes this file first.
	if there, err := s.exists(rootFile); there || err != nil || !content {
		return err
	}
	return &DamagedError{s.path(rootFile), "is missing in a folder that holds other files"}
}

func (s *Store) open() error {
	if s.unwritten == nil {
		if err := s.tighten(); err != nil {
			return err
		}
		if err := atomicfile.RemoveLeftovers(s.dir); err != nil {
			return err
		}
	}
	if err := s.createOnce(ignoreFile, func() ([]byte, error) {
		return []byte("# Keys. They belong in a backup, not in a repository.\n*\n"), nil
	}); err != nil {
		return err
	}
	if err := s.loadRoot(); err != nil {
		return err
	}
	return s.loadAuthority()
}

func (s *Store) loadRoot() error {
	err := s.createOnce(rootFile, func() ([]byte, error) {
		root := rootState{Format: stateFormat, Cluster: s.cluster, Secret: make(hexBytes, secretSize)}
		if _, err := rand.Read(root.Secret); err != nil {
			return nil, err
		}
		return encodeState(root)
	})
	if err != nil {
		return err
	}
	data, err := s.read(rootFile)
	if err != nil {
		return err
	}
	s.root, err = parseRoot(data)
	if err != nil {
		return &DamagedError{s.path(rootFile), err.Error()}
	}
	if s.root.Cluster != s.cluster {
		return &OtherClusterError{Dir: s.dir, Have: s.root.Cluster, Want: s.cluster}
	}
	return nil
}

// loadAuthority reads the authority, or makes it where the folder has none and
// no target that could have been signed by a lost one.
func (s *Store) loadAuthority() error {
	targets, err := s.hasTargets()
	if err != nil {
		return err
	}
	hasCert, err := s.exists(caCertFile)
	if err != nil {
		return err
	}
	s.caKey, err = s.key(caKeyFile, !targets && !hasCert)
	if err != nil {
		return err
	}
	if !hasCert {
		if targets {
			return &DamagedError{s.path(caCertFile), "is missing"}
		}
		data, err := newAuthority(s.cluster, s.caKey)
		if err != nil {
			return fmt.Errorf("cannot make the cluster's certificate authority: %w", err)
		}
		if err := s.write(caCertFile, data); err != nil {
			return err
		}
	}
	s.caPEM, err = s.read(caCertFile)
	if err != nil {
		return err
	}
	s.ca, err = parseCertificate(s.caPEM)
	if err != nil {
		return &DamagedError{s.path(caCertFile), err.Error()}
	}
	if !s.ca.IsCA || !s.caKey.PublicKey.Equal(s.ca.PublicKey) {
		return &DamagedError{s.path(caCertFile), "is not the certificate of " + caKeyFile}
	}
	return nil
}

func (s *Store) hasTargets() (bool, error) {
	entries, err := s.list("")
	if err != nil {
		return false, err
	}
	for _, name := range entries {
		if _, err := clusterctrl.ParseSlot(name); err == nil || controllerNumber(name) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// CA is the authority's certificate, PEM.
func (s *Store) CA() []byte { return append([]byte(nil), s.caPEM...) }

// Fingerprint is the SHA-256 digest of the authority's certificate, in
// lower-case hex: what `openssl x509 -fingerprint -sha256` prints with colons.
func (s *Store) Fingerprint() string {
	sum := sha256.Sum256(s.ca.Raw)
	return hex.EncodeToString(sum[:])
}

// Notices are what was put right on opening and its user should know, such as
// a key that others on the machine could have read.
func (s *Store) Notices() []string { return append([]string(nil), s.notices...) }

// locked runs f while no other process works in the folder.
func (s *Store) locked(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unwritten != nil {
		return f() // what it reads is written whole, in an order that can be stopped anywhere
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	lock := flock.New(s.path(lockFile), flock.SetPermissions(fileMode))
	if ok, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil || !ok {
		if errors.Is(err, context.DeadlineExceeded) {
			err = ErrBusy
		}
		return fmt.Errorf("cannot lock %s: %w", s.dir, err)
	}
	defer lock.Unlock() // the end of the process would do as well
	return f()
}

// tighten takes rights from others that they must not have, and remembers
// that they had them.
func (s *Store) tighten() error {
	return filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot look through the identity folder: %w", err)
		}
		info, err := os.Lstat(path)
		if path == s.dir {
			info, err = os.Stat(path) // the folder itself may be a link to a safer place
		}
		if err != nil {
			return err
		}
		want := fileMode
		switch {
		case info.IsDir():
			want = dirMode
		case !info.Mode().IsRegular():
			return &DamagedError{path, "is not a file: links have no place among keys"}
		}
		if runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
			return nil // Windows has other rights, which a new file inherits from the user's folder
		}
		if err := os.Chmod(path, want); err != nil {
			return fmt.Errorf("%s can be read by others and that cannot be changed (chmod %o it): %w", path, want, err)
		}
		s.notices = append(s.notices, fmt.Sprintf(
			"%s had mode %04o and others on this machine may have read it; it is %04o now", path, info.Mode().Perm(), want))
		return nil
	})
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *Store) exists(name string) (bool, error) {
	if _, ok := s.unwritten[name]; ok {
		return true, nil
	}
	_, err := os.Lstat(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// read reads a file that must be there.
func (s *Store) read(name string) ([]byte, error) {
	if data, ok := s.unwritten[name]; ok {
		return data, nil
	}
	info, err := os.Lstat(s.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &DamagedError{s.path(name), "is missing"}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &DamagedError{s.path(name), "is not a file"}
	case info.Size() > maxFile:
		return nil, &DamagedError{s.path(name), "is far too large"}
	}
	f, err := os.Open(s.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func (s *Store) write(name string, data []byte) error {
	if s.unwritten != nil {
		s.unwritten[name] = data
		return nil
	}
	return atomicfile.WriteBytes(s.path(name), data, fileMode)
}

// createOnce makes a file unless it is there.
func (s *Store) createOnce(name string, content func() ([]byte, error)) error {
	if there, err := s.exists(name); there || err != nil {
		return err
	}
	data, err := content()
	if err != nil {
		return err
	}
	return s.write(name, data)
}
