// Package oslisttest is Raspberry Pi's download site for tests: a server on
// this machine that publishes a sample of the OS list, and images behind it.
package oslisttest

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
)

// Sample is a small OS list that is faithful to the published one: several
// levels, three releases of Raspberry Pi OS, digests of the downloads for some
// entries only, a list that is kept elsewhere, another publisher, and entries
// that cannot be used.
//
//go:embed os_list.json
var Sample []byte

// site is where the sample says that Raspberry Pi's images are.
const site = "https://downloads.raspberrypi.com"

// A Server publishes the sample at ListURL, as if Raspberry Pi's images were
// on the server itself. Beside every image lies its .sha256; where no image
// was published, a digest of its path stands for one.
type Server struct {
	URL     string // http://127.0.0.1:PORT
	ListURL string

	t        testing.TB
	mu       sync.Mutex
	images   map[string]image            // by name
	answers  map[string]http.HandlerFunc // by path
	requests []string
}

type image struct {
	released, download string
	size               int64
	imageSHA256        string
	imageSize          int64
}

// New starts a server, which stops with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, images: map[string]image{}, answers: map[string]http.HandlerFunc{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL, s.ListURL = server.URL, server.URL+"/os_list.json"
	return s
}

// Publish puts an image under a name that the sample has: from now on it is
// the release of that day. The download is a file (.img, .img.xz …), raw the
// image in it.
func (s *Server) Publish(name, released, download, raw string) {
	s.t.Helper()
	_, size := s.hash(download)
	digest, imageSize := s.hash(raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[name] = image{released, download, size, digest, imageSize}
}

func (s *Server) hash(file string) (string, int64) {
	s.t.Helper()
	f, err := os.Open(file)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		s.t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil)), n
}

// Answer replaces what the server says to requests for a path.
func (s *Server) Answer(path string, with http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = with
}

// Requests are the paths that were asked for since the last call.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.requests
	s.requests = nil
	return asked
}

// ImageURL is where the list says that a name's image is.
func (s *Server) ImageURL(name string) string {
	found := ""
	s.eachEntry(func(entry map[string]any, n string) {
		if n == name && found == "" {
			found = entry["url"].(string)
		}
	})
	return found
}

// ServeHTTP answers like the site.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.URL.Path)
	answer := s.answers[r.URL.Path]
	s.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	if r.URL.Path == "/os_list.json" {
		w.Write(s.List())
		return
	}
	for _, published := range s.paths() {
		img := s.image(published)
		switch r.URL.Path {
		case published + ".sha256":
			digest := sha256.Sum256([]byte(published))
			text := hex.EncodeToString(digest[:])
			if img.download != "" {
				text, _ = s.hash(img.download)
			}
			fmt.Fprintf(w, "%s  %s\n", text, path.Base(published))
			return
		case published:
			if img.download != "" {
				http.ServeFile(w, r, img.download)
				return
			}
		}
	}
	http.NotFound(w, r)
}

// List is the list that the server publishes now.
func (s *Server) List() []byte {
	list := s.eachEntry(func(map[string]any, string) {})
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		s.t.Error(err)
	}
	return data
}

// eachEntry goes through the entries on Raspberry Pi's site, as published.
func (s *Server) eachEntry(visit func(entry map[string]any, name string)) map[string]any {
	var list map[string]any
	if err := json.Unmarshal(Sample, &list); err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var walk func(items any)
	walk = func(items any) {
		entries, _ := items.([]any)
		for _, item := range entries {
			entry := item.(map[string]any)
			walk(entry["subitems"])
			address, _ := entry["url"].(string)
			rest, ok := strings.CutPrefix(address, site+"/")
			if !ok {
				continue
			}
			name, _, _ := strings.Cut(rest, "/")
			entry["url"] = s.URL + "/" + rest
			if img, ok := s.images[name]; ok {
				entry["url"] = fmt.Sprintf("%s/%s/images/%s-%s/%s", s.URL, name, name, img.released, path.Base(img.download))
				entry["release_date"] = img.released
				entry["image_download_size"] = img.size
				entry["extract_size"], entry["extract_sha256"] = img.imageSize, img.imageSHA256
				delete(entry, "image_download_sha256")
			}
			visit(entry, name)
		}
	}
	walk(list["os_list"])
	return list
}

// paths are the paths of all images.
func (s *Server) paths() []string {
	var paths []string
	s.eachEntry(func(entry map[string]any, _ string) {
		paths = append(paths, strings.TrimPrefix(entry["url"].(string), s.URL))
	})
	return paths
}

func (s *Server) image(at string) image {
	name, _, _ := strings.Cut(strings.TrimPrefix(at, "/"), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images[name]
}
