package baseimage

import (
	"strings"

	"hatchery/internal/download"
)

// isURL tells a URL from the path of a file.
func isURL(source string) bool {
	scheme, _, ok := strings.Cut(source, "://")
	return ok && (strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http"))
}

// publicName is a source as it may be shown and kept: a URL without its
// query, fragment and account, for signed URLs carry tokens there.
func publicName(source string) string {
	if !isURL(source) {
		return source // ? and # are ordinary in a path
	}
	return download.Shown(source)
}
