package overlays_test

import (
	"bytes"
	"path"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"hatchery/overlays"
)

// FuzzLists lays a tree whose modes and links files are foreign bytes: what
// comes out has clean absolute paths, or there is an error with a line.
func FuzzLists(f *testing.F) {
	f.Add([]byte("a 0644 0 0\nd/ 1777 1 2 secret\n"), []byte("l -> /x\n\"with blank\" -> \"y z\"\n"))
	f.Add([]byte("# nothing\n\n"), []byte("../l -> x"))
	f.Add([]byte("\"a 0644 0 0"), []byte("l -> \"\""))
	f.Add([]byte("a 7777 4294967295 0"), []byte("l -> a\x00b"))
	f.Add([]byte("a/ 0644 0 0"), []byte("a -> b"))
	f.Fuzz(func(t *testing.T, modes, links []byte) {
		tree := overlays.Tree{Name: "t", FS: fstest.MapFS{"a": {Data: []byte("a")}, "modes": {Data: modes}, "links": {Data: links}}}
		entries, err := overlays.Render(exampleData("p1"), tree)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "t/") {
				t.Fatalf("the error does not name its file: %v", err)
			}
			return
		}
		for _, e := range entries {
			if !path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path || strings.ContainsAny(e.Path+e.Target, "\x00\n") {
				t.Fatalf("entry %+v", e)
			}
		}
	})
}

// FuzzTemplate renders foreign templates: they fail, or they render, and they
// come to an end.
func FuzzTemplate(f *testing.F) {
	f.Add([]byte("{{.Hostname}} {{with .HostLines}}{{index . 0}}{{end}}"))
	f.Add([]byte("{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}"))
	f.Add([]byte("{{json .Labels | sh}}{{ssid \"\"}}{{keyfile \" \"}}"))
	f.Add([]byte("{{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Contains(text, []byte("range")) {
			// Nested loops end, but not while somebody waits.
			return
		}
		tree := overlays.Tree{Name: "t", FS: fstest.MapFS{"a.tmpl": {Data: text}}}
		entries, err := overlays.Render(exampleData("p1"), tree)
		if err != nil && !strings.Contains(err.Error(), "t/a.tmpl") {
			t.Errorf("the error does not name the file: %v", err)
		}
		again, _ := overlays.Render(exampleData("p1"), tree)
		if !reflect.DeepEqual(entries, again) {
			t.Error("rendered twice, it is not the same")
		}
	})
}
