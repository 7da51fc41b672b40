package download

import (
	"net/netip"
	"regexp"
	"strings"
)

// Shown is a URL as it may be shown and kept: without its query, fragment and
// account, for signed URLs carry tokens there.
func Shown(url string) string {
	if i := strings.IndexAny(url, "?#"); i >= 0 {
		url = url[:i] // to its end: who wrote it may have put a space there
	}
	return discreet(url)
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

// loopback says whether a host is this machine, so that nobody is on the way.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
