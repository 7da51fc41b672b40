package preload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// DockerConfig has the accounts that `docker login` wrote to config.json (in
// DOCKER_CONFIG, else ~/.docker) and `podman login` to auth.json
// (REGISTRY_AUTH_FILE, else in XDG_RUNTIME_DIR/containers), read when one is
// asked for; Docker's come first.
//
// Docker can leave accounts to a credential helper: a program, which hatchery
// does not run. Such a registry is asked without an account, as public images
// need none, and where it refuses, the error says what to do.
func DockerConfig() authn.Keychain { return dockerConfig{} }

type dockerConfig struct{}

// A helped account is one that a credential helper keeps: none, to us.
type helped struct {
	authn.Authenticator
	helper string
}

// accountFile is what is read of config.json and auth.json.
type accountFile struct {
	Auths       map[string]json.RawMessage `json:"auths"`
	CredsStore  string                     `json:"credsStore"`
	CredHelpers map[string]string          `json:"credHelpers"`
}

// maxAccounts is far beyond any file of accounts.
const maxAccounts = 4 << 20

// Resolve implements [authn.Keychain].
func (dockerConfig) Resolve(target authn.Resource) (authn.Authenticator, error) {
	helper := ""
	for _, place := range accountFiles() {
		file, err := readAccounts(place)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, inputErrorf("cannot read the accounts of registries: %w", err)
		}
		account, theirs, err := file.account(target)
		if err != nil {
			return nil, inputErrorf("cannot read the accounts of registries: %s: %w", place, err)
		}
		if account != nil {
			return account, nil
		}
		if helper == "" {
			helper = theirs
		}
	}
	if helper != "" {
		return &helped{authn.Anonymous, helper}, nil
	}
	return authn.Anonymous, nil
}

func accountFiles() []string {
	var places []string
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		places = append(places, filepath.Join(dir, "config.json"))
	} else if home, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(home, ".docker", "config.json"))
	}
	if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		places = append(places, file)
	} else if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		places = append(places, filepath.Join(dir, "containers", "auth.json"))
	}
	return places
}

func readAccounts(place string) (*accountFile, error) {
	f, err := os.Open(place)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxAccounts+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxAccounts {
		return nil, fmt.Errorf("%s is too large", place)
	}
	var file accountFile
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	return &file, nil
}

// account finds what is written for a repository, for a folder of it, or for
// its registry: the closest. Where nothing is, helper may have it.
func (f *accountFile) account(target authn.Resource) (account authn.Authenticator, helper string, err error) {
	keys := []string{target.String()}
	for key := keys[0]; ; {
		i := strings.LastIndexByte(key, '/')
		if i < 0 {
			break
		}
		key = key[:i]
		keys = append(keys, key)
	}
	for _, key := range keys {
		for _, written := range slices.Sorted(maps.Keys(f.Auths)) {
			raw := f.Auths[written]
			if accountKey(written) != accountKey(key) {
				continue
			}
			var c authn.AuthConfig
			// Its errors could have the secret in them.
			if json.Unmarshal(raw, &c) != nil {
				return nil, "", fmt.Errorf("the account for %s cannot be read: log in again (docker login)", written)
			}
			// An empty one says that a helper has it.
			if c != (authn.AuthConfig{}) {
				return authn.FromConfig(c), "", nil
			}
		}
	}
	for _, key := range keys {
		for _, written := range slices.Sorted(maps.Keys(f.CredHelpers)) {
			if accountKey(written) == accountKey(key) {
				return nil, f.CredHelpers[written], nil
			}
		}
	}
	return nil, f.CredsStore, nil
}

// accountKey is how a key of such a file is compared: https://index.docker.io/v1/
// is Docker Hub, and older files have a scheme before every registry.
func accountKey(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	host, path, _ := strings.Cut(key, "/")
	switch host {
	case "docker.io", "registry-1.docker.io":
		host = name.DefaultRegistry
	}
	if path == "" || path == "v1" || path == "v2" {
		return host
	}
	return host + "/" + path
}
