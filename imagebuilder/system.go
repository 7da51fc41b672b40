package imagebuilder

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"hatchery/imagebuilder/release"
	"hatchery/internal/deb822"
	"hatchery/internal/parttable"
)

// A system is the operating system of an image, as far as its packages go.
type system struct {
	root         rootReader
	release      *release.Release
	architecture string // by Debian's name: armel, armhf, arm64
	status       []byte // dpkg's
}

// rootOf opens the root file system of a disk for reading.
func rootOf(d disk) (rootReader, error) {
	table, err := parttable.Read(d, d.Size())
	if err != nil {
		return rootReader{}, &InputError{fmt.Errorf("the base image: %w", err)}
	}
	root, err := openRoot(d, table)
	return rootReader{root}, err
}

// readSystem reads the system on a disk.
func readSystem(d disk, assume string) (*system, error) {
	root, err := rootOf(d)
	if err != nil {
		return nil, err
	}
	s := &system{root: root}
	if s.release, err = detect(s.root, assume); err != nil {
		return nil, err
	}
	if s.status, err = s.root.ReadFile(deb822.StatusFile); err != nil {
		return nil, baseError("cannot read which packages it has", err)
	}
	if s.architecture = s.release.Architecture; s.architecture == "" {
		return nil, &InputError{errors.New("the base image: it does not say for which architecture it is (the package dpkg is not in " + deb822.StatusFile + "): nothing can be installed in it")}
	}
	return s, nil
}

// engines are the packages that Docker Engine comes in: Debian's and Docker's
// own.
var engines = []string{"docker.io", "docker-ce"}

// upstream is the beginning of a package's version that is the program's own.
var upstream = regexp.MustCompile(`^(?:[0-9]+:)?([0-9]+(?:\.[0-9]+)*)`)

// engine gives the version of Docker Engine, as Docker calls it; "" where there
// is none.
func (s *system) engine() (version string, err error) {
	err = deb822.ReadStatus(bytes.NewReader(s.status), func(p *deb822.Package) error {
		if p.Present() && slices.Contains(engines, p.Name) {
			version = p.Version
			if match := upstream.FindStringSubmatch(p.Version); match != nil {
				version = match[1]
			}
		}
		return nil
	})
	return version, baseError(deb822.StatusFile, err)
}
