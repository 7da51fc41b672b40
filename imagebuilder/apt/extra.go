package apt

import (
	"errors"
	"fmt"
	"slices"
)

// An Extra is a source that the user adds to those of the image.
type Extra struct {
	From          string   // where it stands: "cluster.yaml: docker.sources[0]"
	URI           string   // of the archive
	Suites        []string // at least one
	Components    []string // at least one, unless the suite is a folder ("./")
	Architectures []string // any where there are none
	// Key is the archive's OpenPGP key, binary or armored, and KeyName where
	// it was read, for errors. Without one, the keys that the image trusts for
	// any source count.
	Key     []byte
	KeyName string
}

// ParseExtra makes sources of one that the user adds. The image's own give the
// keys for one that has none; they may be nil. An [*InputError] says what is
// wrong with it.
func ParseExtra(x Extra, image *Sources, architecture string) ([]Source, error) {
	fail := func(format string, args ...any) ([]Source, error) {
		return nil, &InputError{fmt.Errorf("%s: "+format, append([]any{x.From}, args...)...)}
	}
	e := entry{from: x.From, types: []string{"deb"}, uris: []string{x.URI}, suites: x.Suites, components: x.Components, options: map[string]string{}}
	if len(x.Suites) == 0 {
		return fail("the source names no suite")
	}
	if len(x.Architectures) > 0 && !slices.Contains(x.Architectures, architecture) {
		return nil, nil
	}
	var trusted []Keyring
	switch {
	case len(x.Key) > 0:
		if x.KeyName == "" {
			x.KeyName = "its key"
		}
		trusted = []Keyring{{Name: x.KeyName, Data: x.Key}}
		if why := unusableKeyring(x.Key); why != "" {
			return fail("%s: %s", x.KeyName, why)
		}
		if keys, problems := readKeys(trusted); len(keys) == 0 {
			return fail("%s has no OpenPGP key in it that can be used: %w", x.KeyName, errors.Join(problems...))
		}
	case image != nil:
		trusted = image.trusted
	}
	sources, notes := e.sources(architecture, trusted, nil)
	if len(notes) > 0 {
		return fail("%s", notes[0].Text)
	}
	for i := range sources {
		sources[i].Own, sources[i].Architectures = true, x.Architectures
	}
	return sources, nil
}
