package dpkg

import (
	"fmt"
	"path"
	"strings"
	"time"

	"hatchery/internal/ext4"
)

const (
	// ScriptsFile is where the node finds what it has to run before
	// `dpkg --configure -a`: one script a line, in order, as
	// [Script.String] writes it. It is there, and may be empty, in every image
	// that packages were unpacked into.
	ScriptsFile = "/var/lib/hatchery/packages/scripts"
	// savedDir has the scripts of versions that are not there any more.
	savedDir = "/var/lib/hatchery/packages/old"
	// dpkgProgram configures what a script needs to be configured.
	dpkgProgram = "/usr/bin/dpkg"
)

// A Script is a program that dpkg would have run while it unpacked a package,
// and that the node has to run instead: a maintainer script (Debian Policy,
// chapter 6), or dpkg itself where a package must be configured before another
// one's preinst is run, because that one pre-depends on it. dpkg gives the
// scripts their package's name, its architecture and their own in
// DPKG_MAINTSCRIPT_PACKAGE, DPKG_MAINTSCRIPT_ARCH and DPKG_MAINTSCRIPT_NAME.
type Script struct {
	Package, Architecture string
	Name                  string // preinst, prerm, postrm; configure where Path is dpkg
	Path                  string // in the image
	Args                  []string
}

// String is the script's line in ScriptsFile: words with single spaces between
// them, of which none has a space in it.
func (s Script) String() string {
	return strings.Join(append([]string{s.Package, s.Architecture, s.Name, s.Path}, s.Args...), " ")
}

// scripts are what is going to be in ScriptsFile.
type scripts struct {
	root  *ext4.FS
	epoch time.Time
	list  []Script
}

// add notes a script of a package that is in info.
func (s *scripts) add(r *record, name string, args ...string) {
	s.list = append(s.list, Script{r.name, r.arch, name, infoFile(r, name), args})
}

// addOld notes a script of a version that is about to be replaced, and keeps
// it. One that is not there is not run.
func (s *scripts) addOld(r *record, name string, args ...string) error {
	saved := path.Join(savedDir, r.infoName()+"."+name)
	if _, err := s.root.Lstat(saved); missing(err) {
		content, err := s.root.ReadFile(infoFile(r, name))
		if missing(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.makeDirs(savedDir); err != nil {
			return err
		}
		if err := s.root.Create(saved, strings.NewReader(string(content)), ext4.Attr{Mode: 0o755, ModTime: s.epoch}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	s.list = append(s.list, Script{r.name, r.arch, name, saved, args})
	return nil
}

// configure has packages configured.
func (s *scripts) configure(r *record, specs []string) {
	args := []string{"--force-confdef", "--force-confold", "--configure"} // nobody is there to be asked
	s.list = append(s.list, Script{r.name, r.arch, "configure", dpkgProgram, append(args, specs...)})
}

func (s *scripts) makeDirs(dir string) error {
	return s.root.MkdirAll(dir, ext4.Attr{Mode: 0o755, ModTime: s.epoch})
}

// save writes ScriptsFile, behind what an earlier run left in it.
func (s *scripts) save() error {
	if err := s.makeDirs(path.Dir(ScriptsFile)); err != nil {
		return fmt.Errorf("cannot write the packages' scripts: %w", err)
	}
	text, err := readText(s.root, ScriptsFile, maxTable)
	if err != nil && !missing(err) {
		return err
	}
	for _, script := range s.list {
		text += script.String() + "\n"
	}
	if err := s.root.Create(ScriptsFile, strings.NewReader(text), ext4.Attr{Mode: 0o644, ModTime: s.epoch}); err != nil {
		return fmt.Errorf("cannot write the packages' scripts: %w", err)
	}
	return nil
}
