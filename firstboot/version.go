package firstboot

import (
	"runtime/debug"
	"strings"
)

// Version is the one that this program was built with: the release, or devel,
// and the commit.
func Version() string {
	release, commit := "devel", ""
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release
	}
	// A commit without a release is told by the revision.
	if v := info.Main.Version; v != "" && v != "(devel)" && !strings.HasPrefix(v, "v0.0.0-") {
		release = v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			commit = " " + s.Value[:min(len(s.Value), 12)]
		}
	}
	return release + commit
}
