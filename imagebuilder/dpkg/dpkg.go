// Package dpkg unpacks Debian packages into a root file system that is not
// running, as `dpkg --unpack` does: the files, and everything that dpkg keeps
// in its database about them. No program of the image is run. What the packages'
// scripts would have done before and while they are unpacked is written down,
// in order, for the node to do at its first boot, before it runs
// `dpkg --configure -a`.
//
// The rules are dpkg's own: of src/main/unpack.c, archives.c and depcon.c for
// what goes where, of lib/dpkg/dump.c, fields.c and db-*.c for what its
// database looks like, of lib/dpkg/trig*.c for triggers. The same packages,
// unpacked by dpkg in a copy of the root, leave the same tree and the same
// database, byte for byte but for the times of what dpkg made or touched
// itself, which here are Options.Epoch.
//
// What dpkg would do only when it is forced to is an error, and so is what it
// would do to packages other than those it was given: remove one that is in
// conflict, take one out of service that would break.
package dpkg

import (
	"context"
	"fmt"
	"time"

	"hatchery/imagebuilder/deb"
	"hatchery/internal/ext4"
)

// A Package is a .deb that is to be unpacked.
type Package struct {
	Name      string // the file's name, for errors
	Deb       *deb.Deb
	Automatic bool // nobody asked for it, others need it (apt-mark(8))
}

// Options says how packages are unpacked.
type Options struct {
	// Epoch is the time of everything that has no time of its own.
	Epoch time.Time
	// Hold marks the packages so that no upgrade replaces them
	// (`apt-mark hold`).
	Hold bool
	// Upgrade lets a package replace another version of itself.
	Upgrade bool
	// Most is how many bytes the packages' data.tar may have in all,
	// decompressed; 0 is 8 GiB.
	Most int64
}

// A Result says what was done.
type Result struct {
	Packages []Unpacked // in the order given
	Scripts  []Script   // in the order in which the node has to run them
}

// Unpacked is a package that lies in the image now.
type Unpacked struct {
	Name, Version, Architecture string
	Source                      string // the source package's name; the package's own where it says none
	SourceVersion               string // where it differs from Version; else the same
	InstalledSize               int64  // in bytes, as the package says
	Automatic                   bool
	// Files are the paths of the regular files, hard links included, that
	// were laid, sorted: a diverted one where it was diverted to, a
	// configuration file with the suffix .dpkg-new, as it lies there until
	// the node configures the package.
	Files []string
}

// defaultMost is what Options.Most is where nothing is said.
const defaultMost = 8 << 30

// Unpack unpacks packages into root, in the order given, which has to be one
// that dpkg could take: a package comes after those it pre-depends on. The
// caller flushes root. After an error root is neither the old nor the new one:
// the caller throws away what it wrote to.
//
// Mistakes that the user can mend are an [*InputError], with a more special
// error in it. A database that is not as dpkg leaves it is a [*DatabaseError],
// and a package that is no good one a [*deb.FormatError]. An error that is
// [ext4.ErrNoSpace] says that root is too small.
func Unpack(ctx context.Context, root *ext4.FS, packages []Package, o Options) (*Result, error) {
	if o.Most == 0 {
		o.Most = defaultMost
	}
	root.SetTime(o.Epoch)
	db, err := openDatabase(root, o.Epoch)
	if err != nil {
		return nil, err
	}
	u := &unpacker{db: db, root: root, options: o, left: o.Most, scripts: &scripts{root: root, epoch: o.Epoch}}
	if err := u.check(packages); err != nil {
		return nil, err
	}
	result := &Result{}
	for _, p := range packages {
		unpacked, err := u.unpack(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("cannot unpack %s: %w", p.Name, err)
		}
		result.Packages = append(result.Packages, *unpacked)
	}
	if err := db.save(); err != nil {
		return nil, fmt.Errorf("cannot write dpkg's database: %w", err)
	}
	if err := markAutomatic(root, u.marks, o.Epoch); err != nil {
		return nil, err
	}
	if err := u.scripts.save(); err != nil {
		return nil, err
	}
	result.Scripts = u.scripts.list
	return result, nil
}
