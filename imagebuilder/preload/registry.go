package preload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/download"
)

// Registries are what references lead to: one session for each repository, so
// that its token is asked for once.
type registries struct {
	o     Options
	cache *cache

	mu       sync.Mutex
	sessions map[string]*session
}

func newRegistries(o Options, c *cache) *registries {
	return &registries{o: o, cache: c, sessions: map[string]*session{}}
}

// open gives the way to a repository. Nothing is asked of it yet.
func (r *registries) open(ref reference) (*session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[ref.repository.Name()]; s != nil {
		return s, nil
	}
	account, err := r.o.Keychain.Resolve(ref.repository)
	if err != nil {
		return nil, err
	}
	local := loopback(ref.repository.RegistryStr())
	s := &session{
		ref: ref, cache: r.cache, account: account, scheme: "https",
		base: &plainGuard{inner: r.o.Client.Transport, allowed: local},
	}
	if local {
		// The handshake finds out which of both it is.
		s.scheme = "http"
	}
	if h, ok := account.(*helped); ok {
		s.helper = h.helper
	}
	client := *r.o.Client
	client.Transport = s
	s.client = &client
	r.sessions[ref.repository.Name()] = s
	return s, nil
}

// A session is the way to one repository of a registry. It is the transport of
// its own client: what the client asks for goes through the registry's
// handshake, and what the registry answers is put into words.
type session struct {
	ref     reference
	cache   *cache
	account authn.Authenticator
	helper  string // has the account, and is not run
	scheme  string
	base    http.RoundTripper
	client  *download.Client

	mu    sync.Mutex
	ready http.RoundTripper // after the handshake
	said  string            // what the registry said when it last refused
}

// accept is what a registry may answer with for a manifest. Schema 1 is in it
// only so that it can be refused by name.
var accept = strings.Join([]string{
	mediaOCIIndex, mediaOCIManifest, mediaDockerList, mediaDockerManifest, mediaSchema1Signed, mediaSchema1,
}, ", ")

// RoundTrip implements [http.RoundTripper].
func (s *session) RoundTrip(request *http.Request) (*http.Response, error) {
	ready, err := s.handshake(request.Context())
	if err != nil {
		return nil, s.refused(err)
	}
	request = request.Clone(request.Context())
	if strings.Contains(request.URL.Path, "/manifests/") {
		request.Header.Set("Accept", accept)
	}
	ours := request.URL.Host == s.ref.repository.RegistryStr()
	response, err := ready.RoundTrip(request)
	if err != nil {
		return nil, s.refused(err)
	}
	if !ours || response.StatusCode < 400 {
		s.remember("")
		return response, nil
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxSaid))
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	response.ContentLength = int64(len(body))
	said := diagnosis(body)
	s.remember(said)
	if code := response.StatusCode; code == http.StatusUnauthorized || code == http.StatusForbidden {
		return nil, s.denied(response.Status, said)
	}
	return response, nil
}

// remember keeps what the registry said last, for the error that may follow.
func (s *session) remember(said string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = said
}

// handshake asks the registry which account it wants, once.
func (s *session) handshake(ctx context.Context) (http.RoundTripper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready != nil {
		return s.ready, nil
	}
	ready, err := transport.NewWithContext(ctx, s.ref.repository.Registry, s.account, s.base,
		[]string{s.ref.repository.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	s.ready = ready
	return ready, nil
}

// refused puts what failed before the registry could answer into words; what
// it does not know may pass.
func (s *session) refused(err error) error {
	var answer *transport.Error
	var plain *plainError
	switch {
	case errors.As(err, &plain):
		return &download.InputError{Err: plain}
	case !errors.As(err, &answer):
		return err
	}
	said := ""
	for _, d := range answer.Errors {
		said = strings.TrimSpace(string(d.Code) + " " + d.Message)
	}
	switch code := answer.StatusCode; code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return s.denied(fmt.Sprintf("%d %s", code, http.StatusText(code)), said)
	default:
		return fmt.Errorf("%s answers %d %s %s", s.ref.place(), code, http.StatusText(code), oneLine(said))
	}
}

func (s *session) denied(status, said string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s answers %s", s.ref.place(), status)
	if said != "" {
		fmt.Fprintf(&b, " (%s)", oneLine(said))
	}
	b.WriteString(": there is no such image, or it needs an account; check the name, ")
	switch {
	case s.helper != "":
		fmt.Fprintf(&b, "and where it needs an account: that is kept by docker-credential-%s, a program that hatchery does not run, "+
			"so save the image with docker (docker save -o image.tar %s) and preload ./image.tar", s.helper, s.ref.familiar())
	case s.account == authn.Anonymous:
		fmt.Fprintf(&b, "or log in (docker login %s)", s.ref.place())
	default:
		fmt.Fprintf(&b, "or log in again (docker login %s): it was asked with the account that is known", s.ref.place())
	}
	return &download.InputError{Err: errors.New(b.String())}
}

// maxSaid is how much of a refusal is read.
const maxSaid = 64 << 10

// diagnosis is what a registry says in a refusal (OCI Distribution
// Specification, Error Codes).
func diagnosis(body []byte) string {
	var said struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &said) != nil || len(said.Errors) == 0 {
		return ""
	}
	return strings.TrimSpace(said.Errors[0].Code + ": " + said.Errors[0].Message)
}

// oneLine makes foreign words fit for a message: no line breaks, no control
// characters, no end.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	const most = 200
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

func (s *session) url(kind, name string) string {
	return fmt.Sprintf("%s://%s/v2/%s/%s/%s", s.scheme, s.ref.repository.RegistryStr(), s.ref.repository.RepositoryStr(), kind, name)
}

// manifest fetches a manifest or index by tag or digest.
func (s *session) manifest(ctx context.Context, tag string, want digest.Digest) ([]byte, error) {
	if want != "" {
		if content, ok := s.cache.small(want, maxManifest); ok {
			return content, nil
		}
		tag = want.String()
	}
	content, err := s.client.Bytes(ctx, s.url("manifests", tag), maxManifest)
	if err != nil {
		return nil, s.explain(err, "manifest "+tag)
	}
	if got := digest.FromBytes(content); want != "" && got != want {
		return nil, fmt.Errorf("%s sent a manifest with the digest %s for %s: try again", s.ref.place(), got, want)
	}
	return content, s.cache.put(content)
}

// blob sees that a blob is in the cache.
func (s *session) blob(ctx context.Context, d descriptor, what part) error {
	return s.cache.make(ctx, d.Digest, d.Size, what, func(f *os.File) error {
		_, _, err := s.client.File(ctx, s.url("blobs", d.Digest.String()), d.Digest, f, s.cache.report, download.Options{
			Name: what.String(), Kind: "part of a container image", Size: d.Size, Most: d.Size,
			Remedy: "move the cache to a larger disk (XDG_CACHE_HOME)",
		})
		if err != nil {
			return s.explain(err, what.name)
		}
		return nil
	})
}

// small fetches a blob that is read as a whole.
func (s *session) small(ctx context.Context, d descriptor, what part) ([]byte, error) {
	if err := s.blob(ctx, d, what); err != nil {
		return nil, err
	}
	if content, ok := s.cache.small(d.Digest, d.Size); ok {
		return content, nil
	}
	// A disk that lost some of it: once more.
	if err := os.Remove(s.cache.place(d.Digest)); err != nil {
		return nil, err
	}
	if err := s.blob(ctx, d, what); err != nil {
		return nil, err
	}
	content, ok := s.cache.small(d.Digest, d.Size)
	if !ok {
		return nil, fmt.Errorf("what was written to %s is not what is read from it: is the disk failing?", s.cache.blobs())
	}
	return content, nil
}

// explain tells the user's mistakes from what failed, in the words of images
// instead of URLs.
func (s *session) explain(err error, what string) error {
	s.mu.Lock()
	said := s.said
	s.mu.Unlock()
	if said != "" {
		said = " (" + oneLine(said) + ")"
	}
	var (
		offline *download.OfflineError
		missing *download.NotFoundError
		other   *download.DigestError
		input   *download.InputError
	)
	switch {
	case errors.As(err, &offline):
		return &InputError{fmt.Errorf("its %s is not in the cache: %w", what, err)}
	case errors.As(err, &missing):
		return inputErrorf("%s has no %s of %s%s: check the name and the tag", s.ref.place(), what, s.ref.repository.RepositoryStr(), said)
	case errors.As(err, &other):
		return fmt.Errorf("%s sent another %s than it names: expected %s, got %s: try again", s.ref.place(), what, other.Want, other.Got)
	case errors.As(err, &input):
		return &InputError{err}
	case strings.Contains(err.Error(), "429 ") && s.account == authn.Anonymous:
		return fmt.Errorf("%s: %w%s; with an account (docker login) more is allowed", what, err, said)
	}
	return fmt.Errorf("%s: %w%s", what, err, said)
}

// A plainGuard lets nothing go over http but to a registry of this machine:
// names, accounts and tokens would be readable, and tags could be tampered with.
type plainGuard struct {
	inner   http.RoundTripper
	allowed bool
}

// RoundTrip implements [http.RoundTripper].
func (g *plainGuard) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" && !(g.allowed && loopback(request.URL.Host)) {
		return nil, &plainError{request.URL.Hostname()}
	}
	return g.inner.RoundTrip(request)
}

type plainError struct{ host string }

func (e *plainError) Error() string {
	return fmt.Sprintf("%s would have to be asked over http, which anybody on the way can read and change: registries are asked over https, "+
		"or on this machine (127.0.0.1); or save the image with docker save and preload the file", e.host)
}

// loopback says whether a host, with or without a port, is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.IsLoopback()
}

// familiar is the reference as one writes it.
func (r reference) familiar() string {
	host := r.repository.RegistryStr()
	path := r.repository.RepositoryStr()
	if host == name.DefaultRegistry {
		path = strings.TrimPrefix(path, "library/")
	} else {
		path = host + "/" + path
	}
	switch {
	case r.tag != "":
		return path + ":" + r.tag
	default:
		return path + "@" + r.digest.String()
	}
}
