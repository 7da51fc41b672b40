package apttest

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// Answer answers requests for paths of this ending in its own way; nil answers
// them as before.
func (a *Archive) Answer(ending string, f http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f == nil {
		delete(a.answers, ending)
		return
	}
	a.answers[ending] = f
}

// Replace puts another file to a path below the archive; what is nil is gone
// from there.
func (a *Archive) Replace(name string, content []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if content == nil {
		delete(a.files, "/debian/"+name)
		return
	}
	a.files["/debian/"+name] = content
}

// edit changes all files whose path matches, and counts them.
func (a *Archive) edit(matches func(string) bool, change func([]byte) []byte) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for name, content := range a.files {
		if matches(name) {
			a.files[name] = change(bytes.Clone(content))
			n++
		}
	}
	if n == 0 {
		a.t.Fatal("apttest: nothing to change: was it published?")
	}
}

// flip changes one bit in the middle.
func flip(content []byte) []byte {
	if len(content) > 0 {
		content[len(content)/2] ^= 1
	}
	return content
}

func isIndex(name string) bool {
	return strings.Contains(name, "/Packages") || strings.Contains(name, "/by-hash/")
}

// TamperIndexes changes a bit of every index.
func (a *Archive) TamperIndexes() { a.t.Helper(); a.edit(isIndex, flip) }

// TamperDebs changes a bit of every package.
func (a *Archive) TamperDebs() {
	a.t.Helper()
	a.edit(func(name string) bool { return strings.HasSuffix(name, ".deb") }, flip)
}

// TamperRelease changes a word that was signed.
func (a *Archive) TamperRelease() {
	a.t.Helper()
	a.edit(func(name string) bool { return strings.HasSuffix(name, "Release") }, func(content []byte) []byte {
		return bytes.Replace(content, []byte("Version: "), []byte("Version: 9"), 1)
	})
}

// Expire publishes a Release file that was valid until yesterday.
func (a *Archive) Expire() {
	a.t.Helper()
	a.Date = a.Date.AddDate(0, 0, -9)
	a.ValidUntil = a.Date.AddDate(0, 0, 8)
	a.Publish()
}

// Hang lets requests for paths of this ending wait for ever.
func (a *Archive) Hang(ending string) {
	a.Answer(ending, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

// Truncate hangs up half-way through every file of this ending.
func (a *Archive) Truncate(ending string) {
	a.Answer(ending, func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		content := a.files[r.URL.Path]
		a.mu.Unlock()
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content[:len(content)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
}
