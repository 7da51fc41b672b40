package deb822

import (
	"fmt"
	"io"
	"strings"
)

// StatusFile is where dpkg keeps what it knows of packages.
const StatusFile = "/var/lib/dpkg/status"

// A Package is one paragraph of dpkg's status file.
type Package struct {
	Name, Version, Architecture string
	// Want, Flag and State are the three words of its Status: what the user
	// wants (install, hold, deinstall, purge), ok or reinstreq, and how far
	// dpkg is (installed, unpacked, half-configured, config-files, …).
	Want, Flag, State string
	Paragraph         *Paragraph // everything
}

// Present says whether the package's files are there, in whatever state.
func (p *Package) Present() bool { return p.State != "not-installed" && p.State != "config-files" }

// ReadStatus reads dpkg's status file and calls each for every package in it,
// in its order. An error of each ends it and is returned.
func ReadStatus(r io.Reader, each func(*Package) error) error {
	in := NewReader(r)
	for {
		p, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		pkg := &Package{Name: p.Get("Package"), Version: p.Get("Version"), Architecture: p.Get("Architecture"), Paragraph: p}
		if pkg.Name == "" {
			return &SyntaxError{Line: p.Line, Msg: "a paragraph without a Package field"}
		}
		words := strings.Fields(p.Get("Status"))
		if len(words) != 3 {
			return &SyntaxError{Line: p.Line, Msg: fmt.Sprintf("the Status of package %s is not three words", quoteStart(pkg.Name))}
		}
		pkg.Want, pkg.Flag, pkg.State = words[0], words[1], words[2]
		if err := each(pkg); err != nil {
			return err
		}
	}
}
