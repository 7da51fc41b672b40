package overlays_test

import (
	"bytes"
	"strings"
	"testing"

	"hatchery/overlays"
)

// TestPageCertificate lays it where it is, and for nobody but root.
func TestPageCertificate(t *testing.T) {
	shown := func(d *overlays.Data) {
		d.Identity.PageCertificate, d.Identity.PageKey = []byte("certificate of the page\n"), []byte("key of the page\n")
	}
	for _, test := range []struct {
		summary string
		data    overlays.Data
		laid    int
	}{
		{"a controller that browsers reach", exampleData("controller", shown), 2},
		{"one that they do not", exampleData("controller"), 0},
		{"a node", exampleData("p1", shown), 0},
	} {
		laid := 0
		for _, e := range mustRender(t, test.data) {
			if strings.Contains(e.Path, "identity/page") || bytes.Contains(e.Content, []byte("of the page")) {
				laid++
				if !e.Secret || e.Mode.Perm() != 0o600 {
					t.Errorf("%s: %s has %v, secret %v", test.summary, e.Path, e.Mode, e.Secret)
				}
			}
		}
		if laid != test.laid {
			t.Errorf("%s: %d files, want %d", test.summary, laid, test.laid)
		}
	}
}

// TestVersionsKey is laid where there are several controllers, on them alone, and for
// nobody but root.
func TestVersionsKey(t *testing.T) {
	common := func(d *overlays.Data) { d.Identity.VersionsKey = []byte{0xc0, 0xff, 0xee} }
	for _, test := range []struct {
		summary string
		data    overlays.Data
		laid    int
	}{
		{"one of several controllers", exampleData("controller", common), 1},
		{"the only one", exampleData("controller"), 0},
		{"a node", exampleData("p1", common), 0},
	} {
		laid := 0
		for _, e := range mustRender(t, test.data) {
			if strings.HasSuffix(e.Path, "identity/versions.key") || bytes.Contains(e.Content, []byte("c0ffee")) {
				laid++
				if !e.Secret || e.Mode.Perm() != 0o600 || string(e.Content) != "c0ffee\n" {
					t.Errorf("%s: %s has %v, secret %v, %q", test.summary, e.Path, e.Mode, e.Secret, e.Content)
				}
			}
		}
		if laid != test.laid {
			t.Errorf("%s: %d files, want %d", test.summary, laid, test.laid)
		}
	}
}
