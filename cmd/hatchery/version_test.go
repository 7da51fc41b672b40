package main

import (
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	checkout := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.modified", Value: "false"}}
	changed := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.modified", Value: "true"}}
	for _, test := range []struct {
		summary  string
		main     string
		settings []debug.BuildSetting
		want     string
	}{
		{"go run", "(devel)", nil, "hatchery devel"},
		{"a test", "", nil, "hatchery devel"},
		{"a checkout", "v0.0.0-20261122024549-0123abc", checkout, "hatchery devel (revision 0123abc)"},
		{"a checkout with changes", "v0.0.0-20261122024549-0123abc+dirty", changed, "hatchery devel (revision 0123abc, with changes)"},
		{"a release", "v1.2.3", nil, "hatchery v1.2.3"},
		{"a release's checkout", "v1.2.3", checkout, "hatchery v1.2.3 (revision 0123abc)"},
	} {
		info := &debug.BuildInfo{Main: debug.Module{Version: test.main}, Settings: test.settings}
		if got := version(info, true); got != test.want {
			t.Errorf("%s: %q, want %q", test.summary, got, test.want)
		}
	}
	if got := version(nil, false); got != "hatchery devel" {
		t.Errorf("without build information: %q", got)
	}
}
