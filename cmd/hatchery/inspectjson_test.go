package main

import (
	"encoding/json"
	"strings"
	"testing"

	"hatchery/imagebuilder/diskimage"
)

// TestNamesInJSON: names that are not UTF-8 stay apart.
func TestNamesInJSON(t *testing.T) {
	var seen []string
	for _, name := range []string{"/a\xff", "/a\xfe", "/plain"} {
		data, err := json.Marshal(listedOf(diskimage.Node{Path: name}))
		if err != nil {
			t.Fatal(err)
		}
		path, _, _ := strings.Cut(string(data), `,"type"`)
		seen = append(seen, path)
	}
	if seen[0] == seen[1] || seen[2] != `{"path":"/plain"` {
		t.Errorf("%q", seen)
	}
}
