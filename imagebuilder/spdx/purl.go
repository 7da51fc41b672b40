package spdx

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// purl is the package URL of a Debian package
// (https://github.com/package-url/purl-spec, type deb).
func (p Package) purl() string {
	vendor := strings.ToLower(cmp.Or(p.Vendor, "debian"))
	return "pkg:deb/" + escaped(vendor) + "/" + escaped(strings.ToLower(p.Name)) + "@" + escaped(p.Version) +
		qualifiers("arch", p.Architecture, "distro", p.Distribution)
}

// purl is the package URL of a container image (type oci): its name is the
// last part of the repository's, its version the digest.
func (c Container) purl() string {
	repository, name, tag := c.split()
	_, arch, _ := strings.Cut(c.Platform, "/")
	arch, _, _ = strings.Cut(arch, "/")
	if c.Local {
		repository = ""
	}
	return "pkg:oci/" + escaped(strings.ToLower(name)) + "@" + escaped(c.Digest) +
		qualifiers("arch", arch, "repository_url", repository, "tag", tag)
}

// split takes a reference apart: the repository, its last part, the tag.
func (c Container) split() (repository, name, tag string) {
	repository, _, _ = strings.Cut(c.Name, "@")
	slash := strings.LastIndexByte(repository, '/')
	if colon := strings.LastIndexByte(repository, ':'); colon > slash {
		repository, tag = repository[:colon], repository[colon+1:]
	}
	return repository, repository[slash+1:], tag
}

// qualifiers writes keys and values, in the order of the keys, without those
// that have no value.
func qualifiers(pairs ...string) string {
	var all []string
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] != "" {
			all = append(all, pair[0]+"="+escaped(pair[1]))
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return "?" + strings.Join(all, "&")
}

// escaped writes what a component of a package URL may not have as it is as
// percent signs and hexadecimal digits: all but letters, digits and .-_~ and
// the colon.
func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(".-_~:", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
