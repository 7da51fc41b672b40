package preload

import (
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// A reference is a registry's name of an image.
type reference struct {
	repository name.Repository
	tag        string        // "" with a digest alone
	digest     digest.Digest // "" where the tag decides
}

// The grammar is that of Docker's references (distribution/reference), for
// what `docker load` cannot parse it does not load.
var (
	pathPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	hostPattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)
)

// maxReference is what Docker allows a name to have, and a tag and a digest.
const maxReference = 255 + 1 + 128 + 1 + 71

// isPath tells a file from a reference, which begins with a letter or a digit.
func isPath(ref string) bool {
	if ref == "." || ref == ".." {
		return true
	}
	for _, prefix := range []string{"/", "./", "../", "~/"} {
		if strings.HasPrefix(ref, prefix) {
			return true
		}
	}
	return runtime.GOOS == "windows" && (filepath.IsAbs(ref) || strings.HasPrefix(ref, `.\`) || strings.HasPrefix(ref, `..\`))
}

// parseReference reads a name of Docker's: short ones are Docker Hub's.
func parseReference(text string) (reference, error) {
	bad := func(why string) (reference, error) {
		return reference{}, inputErrorf("%s: write one such as alpine:3.20, or the path of a file, such as ./alpine.tar", why)
	}
	if text == "" || len(text) > maxReference {
		return bad("it is no name of a container image")
	}
	rest, hash, hashed := strings.Cut(text, "@")
	var ref reference
	if hashed {
		ref.digest = digest.Digest(hash)
		if ref.digest.Validate() != nil || ref.digest.Algorithm() != digest.SHA256 {
			return bad("what follows the @ is no sha256:…")
		}
	}
	// A colon before the last slash is a registry's port.
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, ref.tag = rest[:i], rest[i+1:]
		if !tagPattern.MatchString(ref.tag) {
			return bad("what follows the last colon is no tag")
		}
	}
	if ref.tag == "" && !hashed {
		ref.tag = "latest"
	}
	var err error
	if ref.repository, err = name.NewRepository(rest); err != nil {
		return bad("it is no name of a container image")
	}
	if !pathPattern.MatchString(ref.repository.RepositoryStr()) || !hostPattern.MatchString(ref.repository.RegistryStr()) ||
		len(ref.name()) > maxReference {
		return bad("it is no name of a container image (names are in lower case)")
	}
	return ref, nil
}

// parseLoadable reads a reference that has a name on the node: by its tag.
func parseLoadable(text string) (reference, error) {
	ref, err := parseReference(text)
	if err == nil && ref.tag == "" {
		err = inputErrorf("it has no tag, and `docker load` gives names by tag only: write %s with a tag before the @, "+
			"which is what the node will call it by", text)
	}
	return ref, err
}

// name is the reference in full, with its tag, as `docker load` is told.
func (r reference) name() string {
	host := r.repository.RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io"
	}
	return host + "/" + r.repository.RepositoryStr() + ":" + r.tag
}

// place is the registry's part of a message.
func (r reference) place() string {
	return strings.TrimPrefix(r.repository.RegistryStr(), "index.")
}
