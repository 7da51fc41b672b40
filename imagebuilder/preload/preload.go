// Package preload brings container images into an image of hatchery: it finds
// the variant that the target's processor runs, fetches it by digest, and
// writes all of them as one archive for `docker load`.
//
//	Resolve ── names become digests of one platform's manifest, for cluster.lock
//	Fetch ──── those digests become blobs in the cache: verified, resumed, shared
//	Archive ── blobs become one docker-archive; Image.Files shows what is in it
//
// # What names an image
//
// A reference as docker pull takes it (alpine:3.20, ghcr.io/owner/name:tag,
// name:tag@sha256:…), or the path of a file or folder, which begins with "/",
// "./", "../" or "~/" as no reference does (on Windows also with a drive's
// letter or ".\"): what `docker save` wrote, an OCI layout, as a folder or as
// a tar, plain or gzip or zstd. All images that a file holds are preloaded.
//
// # What an image is called afterwards
//
// `docker load` gives names by tag only. So name:tag@sha256:… is loaded as
// name:tag, and a reference by digest without a tag is refused: the node could
// not run it by that name, and would go to the registry for it. An image of a
// file has the names that the file gives it, else that of the file:
// ./hello.tar is hello:latest.
//
// # Accounts
//
// Accounts of registries come from Docker's config.json (and Podman's
// auth.json), as `docker login` writes them there. A credential helper named
// in it is a foreign program and is not run: see [DockerConfig].
//
// Blobs and manifests go through [hatchery/internal/download], which retries,
// resumes and notices servers that stand still; go-containerregistry has the
// registry's handshake: the ping, the challenge, the token.
package preload

import (
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"

	"hatchery/internal/download"
	"hatchery/internal/progress"
)

// Options are what all work of this package needs to know.
type Options struct {
	// Cache is hatchery's cache. Below it, containers/blobs/sha256 has the
	// manifests, configurations and layers by digest, containers/layers what
	// is known of layers that were checked, and containers/locks what keeps
	// processes apart.
	Cache string
	// Dir is the folder in which relative paths begin: that of cluster.yaml.
	Dir string
	// Client is how registries are reached, and how patiently; nil is
	// [download.New]. Where it is offline, the cache has to have everything.
	Client *download.Client
	// Keychain has the accounts; nil is [DockerConfig].
	Keychain authn.Keychain
	// Progress is told of what takes long; nil is nobody.
	Progress progress.Reporter
	// MostUnpacked is how many bytes an image may have, unpacked; 0 is 16 GiB.
	MostUnpacked int64
}

// defaultMostUnpacked is more than the card of a node has room for.
const defaultMostUnpacked = 16 << 30

func (o Options) filled() Options {
	if o.Client == nil {
		o.Client = download.New()
	}
	if o.Client.Transport == nil {
		c := *o.Client
		c.Transport = http.DefaultTransport
		o.Client = &c
	}
	if o.Keychain == nil {
		o.Keychain = DockerConfig()
	}
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	if o.MostUnpacked == 0 {
		o.MostUnpacked = defaultMostUnpacked
	}
	return o
}

// A Pinned is one container image, exactly: what cluster.lock keeps of it.
type Pinned struct {
	Ref      string   // as cluster.yaml has it: a reference, or a path
	Names    []string // what `docker load` calls it: "docker.io/library/alpine:3.20"
	Digest   string   // of the platform's manifest: "sha256:…"
	Platform Platform // which was asked for; the image may be for an older processor
	Size     int64    // of its blobs, in bytes: what is fetched
}

// An InputError is a mistake in what the user gave: a name that no registry
// has, an image for another processor, a file that holds none.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap gives the error without the verdict.
func (e *InputError) Unwrap() error { return e.Err }

func inputErrorf(format string, args ...any) error {
	return &InputError{fmt.Errorf(format, args...)}
}
