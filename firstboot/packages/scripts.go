package packages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"hatchery/internal/atomicfile"
)

// A script is a line of what dpkg would have run while unpacking.
type script struct {
	pkg, arch string
	name      string // preinst, prerm, postrm; or configure: packages are to be configured at this point
	path      string
	arguments []string
}

// line is the script as packages/done has it.
func (s script) line() string {
	return fmt.Sprintf("%s %s %s %s %s", s.pkg, s.arch, s.name, s.path, strings.Join(s.arguments, " "))
}

// parseScripts reads packages/scripts. Empty lines and those that begin with #
// say nothing.
func parseScripts(text []byte) ([]script, error) {
	var all []script
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		if len(words) < 4 {
			return nil, fmt.Errorf("line %d is no script: PACKAGE ARCHITECTURE NAME PATH ARGUMENTS", number)
		}
		all = append(all, script{words[0], words[1], words[2], words[3], words[4:]})
	}
	return all, nil
}

// runScripts runs what dpkg would have run. What fails stops it: its package
// must not be configured.
func (o Options) runScripts(ctx context.Context) error {
	text, err := os.ReadFile(o.state("scripts"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := parseScripts(text)
	if err != nil {
		return fmt.Errorf("%s: %w", o.state("scripts"), err)
	}
	done, err := o.done()
	if err != nil {
		return err
	}
	version, err := o.dpkgVersion(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if slices.Contains(done, s.line()) {
			continue
		}
		status, err := o.status(ctx, s.pkg+":"+s.arch)
		if err != nil {
			return err
		}
		if isConfigured(status) {
			continue // somebody has done it
		}
		if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
			continue // somebody has removed it
		}
		if err := o.runScript(ctx, s, version); err != nil {
			return err
		}
		done = append(done, s.line())
		o.step()
		if err := atomicfile.WriteBytes(o.state("done"), []byte(strings.Join(done, "\n")+"\n"), 0o644); err != nil {
			return fmt.Errorf("cannot note what has been run: %w (is the card full, or read-only?)", err)
		}
		o.step()
	}
	return nil
}

// done gives the lines of what has been run.
func (o Options) done() ([]string, error) {
	text, err := os.ReadFile(o.state("done"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var lines []string
	for line := range bytes.Lines(text) {
		lines = append(lines, strings.TrimSuffix(string(line), "\n"))
	}
	return lines, nil
}

// runScript runs a script in the environment that dpkg gives it (dpkg's
// src/main/script.c), or dpkg, where a package is to be configured before the
// next one's script is run.
func (o Options) runScript(ctx context.Context, s script, version string) error {
	if s.name == "configure" {
		names := s.arguments
		if i := slices.Index(names, "--configure"); i >= 0 {
			names = names[i+1:]
		}
		o.Tell("configuring what " + s.pkg + " needs beforehand")
		return o.configureThese(ctx, names)
	}
	o.Tell("running " + s.name + " of " + s.pkg)
	err := o.run(ctx, []string{
		"DPKG_MAINTSCRIPT_PACKAGE=" + s.pkg, "DPKG_MAINTSCRIPT_ARCH=" + s.arch, "DPKG_MAINTSCRIPT_NAME=" + s.name,
		"DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1", "DPKG_MAINTSCRIPT_DEBUG=0", "DPKG_RUNNING_VERSION=" + version,
		"DPKG_ADMINDIR=/var/lib/dpkg", "DPKG_ROOT=",
	}, s.path, s.arguments...)
	if err != nil {
		return fmt.Errorf("%s of package %s has failed: %w", s.name, s.pkg, err)
	}
	return nil
}

var versionInWords = regexp.MustCompile(` version (\S+) `)

// dpkgVersion is what dpkg says of itself, for the scripts.
func (o Options) dpkgVersion(ctx context.Context) (string, error) {
	out, _, err := o.output(ctx, "dpkg", "--version")
	if err != nil {
		return "", fmt.Errorf("cannot ask dpkg for its version: %w", err)
	}
	first, _, _ := strings.Cut(out, "\n")
	match := versionInWords.FindStringSubmatch(first)
	if match == nil {
		return "", fmt.Errorf("dpkg does not tell its version, but %q", first)
	}
	return match[1], nil
}
