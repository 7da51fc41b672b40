package dependency

import (
	"fmt"
	"strings"
)

// A Want is a package that the user asks for.
type Want struct {
	Name    string // or Name:architecture
	Version string // exactly this one; "" is any
}

func (w Want) String() string {
	if w.Version != "" {
		return w.Name + "=" + w.Version
	}
	return w.Name
}

// ParseWant parses "docker.io", "docker.io=20.10.24+dfsg1-1" or "libc6:armhf".
// What is none of these is an [*InputError].
func ParseWant(text string) (Want, error) {
	name, version, exact := strings.Cut(text, "=")
	bare, arch, qualified := strings.Cut(name, ":")
	switch {
	case !validName(bare):
		return Want{}, &InputError{fmt.Errorf("%s is not the name of a package", quote(text))}
	case qualified && !validQualifier(arch):
		return Want{}, &InputError{fmt.Errorf("%s names no architecture behind its colon", quote(text))}
	case exact && (version == "" || strings.ContainsAny(version, blank+"*?")):
		return Want{}, &InputError{fmt.Errorf("%s names no version behind its =: it takes a whole one, as in docker.io=20.10.24+dfsg1-1", quote(text))}
	}
	return Want{Name: name, Version: version}, nil
}
