package baseimage

import (
	"regexp"
	"strings"
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
	if i := strings.IndexAny(source, "?#"); i >= 0 {
		source = source[:i] // to its end: who wrote it may have put a space there
	}
	return discreet(source)
}

// discreet is a text without what may grant access in the URLs in it.
func discreet(text string) string { return urlSecrets.ReplaceAllString(text, "$1") }

// urlSecrets finds the parts of URLs that may grant access, also within a
// sentence: the account before the host, and the query and fragment.
var urlSecrets = regexp.MustCompile(`(://)[^\s"/?#]*@|[?#][^\s"]*`)

// A discreetError shows URLs without what may grant access. Those of net/http
// name the URL asked for, which after a redirect is one that no user wrote.
type discreetError struct{ err error }

func (e *discreetError) Error() string { return discreet(e.err.Error()) }

func (e *discreetError) Unwrap() error { return e.err }
