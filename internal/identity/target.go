package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
)

const controllerName = "controller"

// maxControllers is how many controllers a cluster can have.
const maxControllers = 7

// controllerNumber says which controller a target is, from 1; 0 for none.
func controllerNumber(name string) int {
	rest, ok := strings.CutPrefix(name, controllerName)
	if ok && rest == "" {
		return 1
	}
	n, err := strconv.Atoi(rest)
	if !ok || err != nil || n < 2 || n > maxControllers || rest != strconv.Itoa(n) {
		return 0
	}
	return n
}

// A target is whose identity it is.
type target struct {
	name     string
	slot     int
	hostname string
}

var hostnamePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// check sees that the name, which becomes a folder, and the slot, which
// becomes the certificate's, are of one target; and that no slot gets a
// certificate with the controller's name.
func (t target) check() error {
	n, err := clusterctrl.ParseSlot(t.name)
	switch {
	case controllerNumber(t.name) > 0 && t.slot == 0:
	case err != nil || n != t.slot:
		return fmt.Errorf("%q is not the name of slot %d", t.name, t.slot)
	case strings.EqualFold(t.hostname, controllerName):
		return fmt.Errorf("%s cannot have the controller's name", t.name)
	}
	if !hostnamePattern.MatchString(t.hostname) {
		return fmt.Errorf("%q is not a host name", t.hostname)
	}
	return nil
}

// Target gives the present identity of a target, made on first use: generation
// 1. The same call gives the same bytes for ever, unless the host name
// changes, which changes the certificate alone.
func (s *Store) Target(name string, slot int, hostname string) (*Identity, error) {
	return s.change(target{name, slot, hostname}, func(*targetState) {})
}

// Renew gives a target its next generation, with a new key and certificate;
// the first where it has none. The old ones stay in the folder for the record.
// The SSH host key stays in use.
func (s *Store) Renew(name string, slot int, hostname string) (*Identity, error) {
	return s.change(target{name, slot, hostname}, func(state *targetState) { state.Generation++ })
}

// RenewHostKey gives a target a new SSH host key, and leaves its generation.
// Everyone who knows the host will be warned by ssh until their known_hosts
// is brought up to date.
func (s *Store) RenewHostKey(name string, slot int, hostname string) (*Identity, error) {
	return s.change(target{name, slot, hostname}, func(state *targetState) { state.HostKey++ })
}

// change moves a target to another state, makes the files which that lacks,
// and records the state when they are all there.
func (s *Store) change(t target, next func(*targetState)) (*Identity, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	var id *Identity
	err := s.locked(func() error {
		if err := s.makeTargetDir(t.name); err != nil {
			return err
		}
		present, made, err := s.targetState(t.name)
		if err != nil {
			return err
		}
		wanted := present
		if made {
			next(&wanted)
		}
		if max(wanted.Generation, wanted.HostKey) > maxNumber {
			return fmt.Errorf("%s has had too many generations", t.name)
		}
		id, err = s.identity(t, wanted, !made || wanted.Generation != present.Generation, !made || wanted.HostKey != present.HostKey)
		if err != nil {
			return err
		}
		if made && wanted == present {
			return nil
		}
		data, err := encodeState(wanted)
		if err != nil {
			return err
		}
		return s.write(t.name+"/"+targetFile, data)
	})
	if err != nil {
		return nil, err
	}
	return id, nil
}

const targetFile = "target.json"

func (s *Store) makeTargetDir(name string) error {
	if s.unwritten != nil {
		return nil
	}
	err := os.Mkdir(s.path(name), dirMode)
	if errors.Is(err, os.ErrExist) {
		return atomicfile.RemoveLeftovers(s.path(name))
	}
	if err != nil {
		return fmt.Errorf("cannot make the identity of %s: %w", name, err)
	}
	return atomicfile.SyncDir(s.dir)
}

// targetState reads target.json. A target that is not fully made has none
// yet; but one that has been renewed had one.
func (s *Store) targetState(name string) (state targetState, made bool, err error) {
	file := name + "/" + targetFile
	there, err := s.exists(file)
	if err != nil {
		return targetState{}, false, err
	}
	if !there {
		entries, err := s.list(name)
		if err != nil {
			return targetState{}, false, err
		}
		for _, entry := range entries {
			switch entry {
			case generationFile(1, "key"), generationFile(1, "crt"), hostKeyFile(1):
			default:
				return targetState{}, false, &DamagedError{s.path(file), "is missing beside " + entry}
			}
		}
		return targetState{Format: stateFormat, Generation: 1, HostKey: 1}, false, nil
	}
	data, err := s.read(file)
	if err != nil {
		return targetState{}, false, err
	}
	state, err = parseTarget(data)
	if err != nil {
		return targetState{}, false, &DamagedError{s.path(file), err.Error()}
	}
	return state, true, nil
}

func generationFile(n int, kind string) string { return "generation-" + strconv.Itoa(n) + "." + kind }

func hostKeyFile(n int) string { return "ssh_host_ed25519_key-" + strconv.Itoa(n) }

// identity reads a target's files, and makes those that may be made. A key
// that is there is used, even where it may be made: it is of a run that was
// killed.
func (s *Store) identity(t target, state targetState, mayMakeKey, mayMakeHostKey bool) (*Identity, error) {
	folder := t.name + "/"
	// A certificate is made after its key, so a key that is missing beside one
	// was lost.
	hasCertificate, err := s.exists(folder + generationFile(state.Generation, "crt"))
	if err != nil {
		return nil, err
	}
	key, err := s.key(folder+generationFile(state.Generation, "key"), mayMakeKey && !hasCertificate)
	if err != nil {
		return nil, err
	}
	keyPEM, err := s.read(folder + generationFile(state.Generation, "key"))
	if err != nil {
		return nil, err
	}
	hostKey, public, err := s.hostKey(folder+hostKeyFile(state.HostKey), t.name, mayMakeHostKey)
	if err != nil {
		return nil, err
	}
	certificate, err := s.certificate(folder+generationFile(state.Generation, "crt"), key, s.certificateFor(t, state.Generation))
	if err != nil {
		return nil, err
	}
	return &Identity{
		Name: t.name, Slot: t.slot, Generation: state.Generation,
		Certificate: certificate, Key: keyPEM, CA: s.CA(),
		HostKey: hostKey, HostKeyPublic: public,
	}, nil
}

// hostKey reads an SSH host key, or makes it where that is allowed.
func (s *Store) hostKey(name, target string, mayMake bool) (private []byte, public string, err error) {
	if mayMake {
		err := s.createOnce(name, func() ([]byte, error) {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return nil, err
			}
			block, err := ssh.MarshalPrivateKey(key, s.cluster+" "+target)
			if err != nil {
				return nil, err
			}
			return pem.EncodeToMemory(block), nil
		})
		if err != nil {
			return nil, "", err
		}
	}
	private, err = s.read(name)
	if err != nil {
		return nil, "", err
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil || signer.PublicKey().Type() != ssh.KeyAlgoED25519 {
		return nil, "", &DamagedError{s.path(name), "holds no ed25519 key that can be read"}
	}
	return private, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
}
