package apt

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/deb822"
)

// A releaseFile is what a Release file says: what an archive's suite is, and
// the digests of its indexes.
type releaseFile struct {
	origin, label, suite, codename, version string
	date, validUntil                        time.Time // validUntil is zero where there is none
	architectures, components               []string
	notAutomatic, butAutomaticUpgrades      bool
	byHash                                  bool
	noAll                                   bool // indexes of an architecture have the packages for all of them too

	files map[string]listed // by the path from the Release file
}

// A listed file is one that a Release file has a digest of.
type listed struct {
	digest digest.Digest
	size   int64
}

// maxListed is far beyond what an index of a suite has, in bytes.
const maxListed = 1 << 30

// parseRelease reads a Release file. Digests weaker than SHA-256 are not read.
func parseRelease(data []byte) (*releaseFile, error) {
	wrong := func(format string, args ...any) (*releaseFile, error) {
		return nil, &ReleaseError{fmt.Sprintf(format, args...)}
	}
	p, err := deb822.NewReader(bytes.NewReader(data)).Next()
	if err != nil {
		return wrong("%v", err)
	}
	r := &releaseFile{
		origin: p.Get("Origin"), label: p.Get("Label"), suite: p.Get("Suite"), codename: p.Get("Codename"), version: p.Get("Version"),
		architectures: strings.Fields(p.Get("Architectures")), components: strings.Fields(p.Get("Components")),
		files: map[string]listed{},
	}
	for _, f := range []struct {
		name string
		into *bool
	}{{"NotAutomatic", &r.notAutomatic}, {"ButAutomaticUpgrades", &r.butAutomaticUpgrades}, {"Acquire-By-Hash", &r.byHash}} {
		*f.into, _ = boolean(p.Get(f.name))
	}
	r.noAll = slices.Contains(strings.Fields(p.Get("No-Support-for-Architecture-all")), "Packages")
	if r.date, err = parseDate(p.Get("Date")); err != nil {
		return wrong("its Date %q is none", p.Get("Date"))
	}
	if until, ok := p.Lookup("Valid-Until"); ok {
		if r.validUntil, err = parseDate(until); err != nil {
			return wrong("its Valid-Until %q is no date", until)
		}
	}
	// Where a file has both, the first one stays.
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		if err := r.read(p, a); err != nil {
			return nil, err
		}
	}
	if len(r.files) == 0 {
		return wrong("it lists no SHA256 (or SHA512) digest of any index")
	}
	return r, nil
}

// read reads the digests of one kind: lines of digest, size and path.
func (r *releaseFile) read(p *deb822.Paragraph, a digest.Algorithm) error {
	var field *deb822.Field
	for i := range p.Fields {
		if strings.EqualFold(p.Fields[i].Name, a.String()) {
			field = &p.Fields[i]
		}
	}
	if field == nil {
		return nil
	}
	for i, line := range strings.Split(field.Value, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		wrong := &ReleaseError{fmt.Sprintf("line %d: %s is no digest, size and path", field.Line+i, quoteStart(line))}
		if len(words) != 3 {
			return wrong
		}
		d := digest.NewDigestFromEncoded(a, strings.ToLower(words[0]))
		size, err := strconv.ParseUint(words[1], 10, 62)
		if _, hexErr := hex.DecodeString(words[0]); err != nil || hexErr != nil || d.Validate() != nil {
			return wrong
		}
		if _, there := r.files[words[2]]; !there {
			r.files[words[2]] = listed{d, int64(size)}
		}
	}
	return nil
}

// parseDate reads a date of a Release file: those of RFC 1123 in UTC.
func parseDate(text string) (time.Time, error) {
	text = strings.Join(strings.Fields(text), " ")
	for _, zone := range []string{" UTC", " GMT", " Z"} {
		if cut, ok := strings.CutSuffix(text, zone); ok {
			return time.Parse("Mon, 2 Jan 2006 15:04:05", cut)
		}
	}
	t, err := time.Parse("Mon, 2 Jan 2006 15:04:05 -0700", text)
	return t.UTC(), err
}

// clockSlack is how far ahead of this machine's clock an archive's may be
// (apt.conf(5), Acquire::Max-FutureTime).
const clockSlack = 10 * time.Second

// timely says whether a Release file may be used now.
func (r *releaseFile) timely(source *Source, now time.Time) error {
	if is := source.CheckDate; (is == nil || *is) && r.date.After(now.Add(clockSlack)) {
		return &ExpiredError{Early: true, At: r.date, Date: r.date, Now: now}
	}
	until := source.CheckValidUntil == nil || *source.CheckValidUntil
	if date := source.CheckDate; date != nil && !*date {
		until = false // sources.list(5): check-date=no has it too
	}
	if until && !r.validUntil.IsZero() && r.validUntil.Before(now) {
		return &ExpiredError{At: r.validUntil, Date: r.date, Now: now}
	}
	return nil
}

// is says whether the suite goes by the name that a source has for it.
func (r *releaseFile) is(suite string) bool {
	suite = strings.TrimSuffix(strings.Trim(suite, "/"), "/updates")
	for _, name := range []string{r.suite, r.codename} {
		name = strings.TrimSuffix(strings.Trim(name, "/"), "/updates")
		if name == suite {
			return true
		}
	}
	return r.suite == "" && r.codename == ""
}

// priority is what apt gives the versions of a suite that no pin is for
// (apt_preferences(5)).
func (r *releaseFile) priority() int {
	switch {
	case r.notAutomatic && r.butAutomaticUpgrades:
		return 100
	case r.notAutomatic:
		return 1
	}
	return 500
}
