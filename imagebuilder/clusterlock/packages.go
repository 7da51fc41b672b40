package clusterlock

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A PackageSet is the Debian packages that are added to one base image.
type PackageSet struct {
	Base         string    `json:"base" yaml:"base"`                 // "sha256:…" of the raw base image
	Architecture string    `json:"architecture" yaml:"architecture"` // of the base, by Debian's name: armel, armhf, arm64
	Wanted       []string  `json:"wanted" yaml:"wanted"`             // what was asked for, and all else that decides what it leads to; sorted
	Packages     []Package `json:"packages" yaml:"packages"`         // in the order in which they are unpacked
}

// A Package is one file of an archive.
type Package struct {
	Name         string `json:"name" yaml:"name"`
	Version      string `json:"version" yaml:"version"`
	Architecture string `json:"architecture" yaml:"architecture"` // its own: all, or the base's
	URL          string `json:"url" yaml:"url"`                   // in the archive itself, whichever mirror it came from
	SHA256       string `json:"sha256" yaml:"sha256"`             // lower-case hex
	Size         int64  `json:"size" yaml:"size"`                 // of the file in bytes
	Automatic    bool   `json:"automatic,omitempty" yaml:"automatic"`
}

// wants is what was wanted in its canonical form.
func wants(wanted []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(wanted)))
}

// PackagesFor gives the packages that are locked for a base image and an
// architecture, if they are what the same wants led to. In which order the
// wants are given does not matter.
func (l *Lock) PackagesFor(base, architecture string, wanted []string) (PackageSet, bool) {
	s, ok := l.PackagesOf(base, architecture)
	if !ok || !slices.Equal(s.Wanted, wants(wanted)) {
		return PackageSet{}, false
	}
	return s, true
}

// PackagesOf gives the packages that are locked for a base image and an
// architecture, whatever was wanted: what is wanted now may keep to these
// versions.
func (l *Lock) PackagesOf(base, architecture string) (PackageSet, bool) {
	at := slices.IndexFunc(l.Packages, func(s PackageSet) bool { return s.Base == base && s.Architecture == architecture })
	if at < 0 {
		return PackageSet{}, false
	}
	return l.Packages[at].clone(), true
}

// PutPackages locks packages, in the place of those that were locked for the
// same base image and architecture.
func (l *Lock) PutPackages(s PackageSet) {
	l.ForgetPackages(func(o PackageSet) bool { return o.Base == s.Base && o.Architecture == s.Architecture })
	s = s.clone()
	s.Wanted = wants(s.Wanted)
	l.Packages = append(l.Packages, s)
	slices.SortFunc(l.Packages, PackageSet.compare)
}

// ForgetPackages removes the sets that are such, and says whether there were
// any.
func (l *Lock) ForgetPackages(such func(PackageSet) bool) bool {
	before := len(l.Packages)
	l.Packages = slices.DeleteFunc(slices.Clone(l.Packages), such)
	return len(l.Packages) < before
}

func (s PackageSet) compare(o PackageSet) int {
	return cmp.Or(cmp.Compare(s.Base, o.Base), cmp.Compare(s.Architecture, o.Architecture))
}

func (s PackageSet) clone() PackageSet {
	s.Wanted, s.Packages = slices.Clone(s.Wanted), slices.Clone(s.Packages)
	return s
}

func (s PackageSet) equal(o PackageSet) bool {
	return s.Base == o.Base && s.Architecture == o.Architecture && slices.Equal(s.Wanted, o.Wanted) && slices.Equal(s.Packages, o.Packages)
}

// A Container is what the name of a container image stands for on one kind of
// processor.
type Container struct {
	Image    string `json:"image" yaml:"image"`       // as cluster.yaml has it: alpine:3.20
	Platform string `json:"platform" yaml:"platform"` // linux/arm/v6
	Digest   string `json:"digest" yaml:"digest"`     // "sha256:…" of the platform's manifest
	Size     int64  `json:"size,omitempty" yaml:"size"`
}

// ContainerFor gives what an image's name is locked to on a platform.
func (l *Lock) ContainerFor(image, platform string) (Container, bool) {
	at := slices.IndexFunc(l.Containers, func(c Container) bool { return c.Image == image && c.Platform == platform })
	if at < 0 {
		return Container{}, false
	}
	return l.Containers[at], true
}

// PutContainer locks a container image, in the place of what its name stood
// for on the same platform.
func (l *Lock) PutContainer(c Container) {
	l.ForgetContainers(func(o Container) bool { return o.Image == c.Image && o.Platform == c.Platform })
	l.Containers = append(l.Containers, c)
	slices.SortFunc(l.Containers, Container.compare)
}

// ForgetContainers removes those that are such, and says whether there were
// any.
func (l *Lock) ForgetContainers(such func(Container) bool) bool {
	before := len(l.Containers)
	l.Containers = slices.DeleteFunc(slices.Clone(l.Containers), such)
	return len(l.Containers) < before
}

func (c Container) compare(o Container) int {
	return cmp.Or(cmp.Compare(c.Image, o.Image), cmp.Compare(c.Platform, o.Platform))
}

var (
	ownDigestPattern    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	packagePattern      = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian Policy, section 5.6.1
	versionPattern      = regexp.MustCompile(`^[0-9A-Za-z][A-Za-z0-9.+~:-]*$`)
	architecturePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	platformPattern     = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$`)
)

// Limits of what a lock records: more than any cluster's has, and as much as
// can be read again.
const (
	maxWish       = 20_000 // bytes of one want: a source with all its suites
	maxWord       = 1000   // bytes of any other text that has no form of its own
	maxPackages   = 2000   // of all sets
	maxContainers = 1000
)

func (l *Lock) checkPackages() error {
	total := 0
	for i, s := range l.Packages {
		total += len(s.Packages)
		twice := slices.ContainsFunc(l.Packages[:i], func(o PackageSet) bool { return s.compare(o) == 0 })
		switch err := s.check(); {
		case err != nil:
			return fmt.Errorf("packages: %.80q: %w", s.Base, err)
		case twice:
			return fmt.Errorf("packages: %.80q: it is there twice for %s", s.Base, s.Architecture)
		case total > maxPackages:
			return fmt.Errorf("packages: there are more than %d", maxPackages)
		}
	}
	return nil
}

func (s PackageSet) check() error {
	switch {
	case !ownDigestPattern.MatchString(s.Base):
		return errors.New("base is no digest of an image: sha256: and 64 hexadecimal digits")
	case len(s.Architecture) > 40 || !architecturePattern.MatchString(s.Architecture):
		return errors.New("architecture is missing, or none of Debian's")
	case len(s.Wanted) == 0 || !slices.Equal(s.Wanted, wants(s.Wanted)):
		return errors.New("wanted is missing, or not sorted")
	case slices.ContainsFunc(s.Wanted, func(w string) bool { return w == "" || len(w) > maxWish || !printable(w) }):
		return errors.New("wanted has what is endless, or characters that are none")
	}
	seen := map[string]bool{}
	for _, p := range s.Packages {
		if err := p.check(); err != nil {
			return fmt.Errorf("%.80q: %w", p.Name, err)
		}
		key := p.Name + ":" + p.Architecture
		if seen[key] {
			return fmt.Errorf("%.80q: it is there twice", p.Name)
		}
		seen[key] = true
	}
	return nil
}

func (p Package) check() error {
	switch {
	case len(p.Name) > 200 || !packagePattern.MatchString(p.Name):
		return errors.New("this is no package's name")
	case len(p.Version) > 200 || !versionPattern.MatchString(p.Version):
		return errors.New("version is missing, or none of a package")
	case len(p.Architecture) > 40 || !architecturePattern.MatchString(p.Architecture):
		return errors.New("architecture is missing, or none of Debian's")
	case !digestPattern.MatchString(p.SHA256):
		return errors.New("sha256 is missing, or no SHA-256 digest")
	case p.Size <= 0 || p.Size > maxBytes:
		return errors.New("size is missing, or makes no sense")
	case p.URL == "" || len(p.URL) > 2000 || !printable(p.URL):
		return errors.New("url is missing, is endless, or has characters that are none")
	}
	u, err := url.Parse(p.URL)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return errors.New("url is no http or https URL")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(p.URL, "#"):
		return errors.New("url has an account, a query or a # in it, which may be secret: use a source without")
	}
	return nil
}

func (l *Lock) checkContainers() error {
	if len(l.Containers) > maxContainers {
		return fmt.Errorf("containers: there are more than %d", maxContainers)
	}
	for i, c := range l.Containers {
		twice := slices.ContainsFunc(l.Containers[:i], func(o Container) bool { return c.compare(o) == 0 })
		switch err := c.check(); {
		case err != nil:
			return fmt.Errorf("containers: %.80q: %w", c.Image, err)
		case twice:
			return fmt.Errorf("containers: %.80q: it is there twice for %s", c.Image, c.Platform)
		}
	}
	return nil
}

func (c Container) check() error {
	switch {
	case c.Image == "" || !word(c.Image):
		return errors.New("image is missing, is endless, or has characters that are none")
	case len(c.Platform) > 80 || !platformPattern.MatchString(c.Platform):
		return errors.New("platform is missing, or none such as linux/arm/v6")
	case !ownDigestPattern.MatchString(c.Digest):
		return errors.New("digest is missing, or none such as sha256: and 64 hexadecimal digits")
	case c.Size < 0 || c.Size > maxBytes:
		return errors.New("size makes no sense")
	}
	return nil
}

// word says whether a text is printable, and of a bearable length.
func word(s string) bool { return len(s) <= maxWord && printable(s) }

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) < 0
}
