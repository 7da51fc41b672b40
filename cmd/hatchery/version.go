package main

import (
	"runtime/debug"
	"strings"
)

// version is what `hatchery --version` prints: the release, or devel, and the
// commit where the binary was built from a checkout.
func version(info *debug.BuildInfo, ok bool) string {
	if !ok {
		return "hatchery devel"
	}
	release := info.Main.Version
	if release == "" || release == "(devel)" || strings.HasPrefix(release, "v0.0.0-") {
		release = "devel" // a commit without a release is told by the revision
	}
	line := "hatchery " + release
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if revision := settings["vcs.revision"]; revision != "" {
		line += " (revision " + revision
		if settings["vcs.modified"] == "true" {
			line += ", with changes"
		}
		line += ")"
	}
	return line
}
