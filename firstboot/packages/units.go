package packages

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hatchery/internal/atomicfile"
)

// unitDirs are where packages and administrators have their units
// (systemd.unit(5)). Links from one to the other count once.
var unitDirs = []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// initScripts is where those of System V are, of which systemd makes units when
// it reads its own again.
const initScripts = "/etc/init.d"

// known is the file that says what systemd has read of units since the boot. It
// lies in a folder that is empty after it.
func (o Options) known() string { return filepath.Join(filepath.Dir(o.Calls), "units") }

// remember notes which units there are, before anything is configured in this
// boot. systemd has read those.
func (o Options) remember() error {
	if _, err := os.Lstat(o.known()); err == nil {
		return nil
	}
	return o.noteUnits()
}

func (o Options) noteUnits() error {
	return atomicfile.WriteBytes(o.known(), []byte(o.units()), 0o600)
}

// reload has systemd read its units again, if there are others than it has
// read. That costs a Zero five seconds and more, and the packages that the
// builder unpacked had their units there before systemd started.
func (o Options) reload(ctx context.Context) error {
	if known, err := os.ReadFile(o.known()); err == nil && string(known) == o.units() {
		return nil
	}
	if err := o.run(ctx, nil, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	return o.noteUnits()
}

// units is a digest of all that units are made of: files, what is dropped in
// beside them, aliases, and scripts of System V that have no unit of their
// name. Which unit wants which is none of it: what is enabled now is started at
// the next boot. A folder that cannot be read is empty.
func (o Options) units() string {
	sum := sha256.New()
	names := map[string]bool{}
	seen := map[string]bool{}
	for _, dir := range unitDirs {
		dir, err := filepath.EvalSymlinks(o.root + dir)
		if err != nil || seen[dir] {
			continue
		}
		seen[dir] = true
		_ = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil
			case !entry.IsDir():
				names[entry.Name()] = true
				write(sum, name, entry)
			case strings.HasSuffix(name, ".wants"), strings.HasSuffix(name, ".requires"):
				return fs.SkipDir
			}
			return nil
		})
	}
	scripts, _ := os.ReadDir(o.root + initScripts)
	for _, entry := range scripts {
		name, _ := strings.CutSuffix(entry.Name(), ".sh")
		// What dpkg has yet to put in its place is nothing to systemd.
		if !names[name+".service"] && !strings.Contains(name, ".dpkg-") {
			write(sum, filepath.Join(initScripts, entry.Name()), entry)
		}
	}
	return fmt.Sprintf("%x\n", sum.Sum(nil))
}

// write writes what tells a file from what it was before.
func write(w io.Writer, name string, entry fs.DirEntry) {
	if info, err := entry.Info(); err == nil {
		fmt.Fprintf(w, "%s %v %d %d\n", name, info.Mode(), info.Size(), info.ModTime().UnixNano())
	}
}
