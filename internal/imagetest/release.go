package imagetest

import (
	"fmt"
	"slices"
	"strings"
)

// release is what a miniature of one release is beside its trees.
type release struct {
	codename string
	date     string // of the image

	align    int64  // of the partitions, in bytes; the first starts there
	clusters int    // sectors a cluster of the FAT file system
	label    string // of the FAT file system
	features string // of the ext4 file system
	// rfkill is what systemd-rfkill has stored: by device and kind, 1 for
	// blocked.
	rfkill map[string]string
}

// releases by their code names.
func releases() map[string]release {
	return map[string]release{"bullseye": bullseye, "bookworm": bookworm, "trixie": trixie}
}

// newRecipe is the plain miniature of a release: 32 bits for ARMv6.
func newRecipe(codename string) (*recipe, error) {
	release, ok := releases()[codename]
	if !ok {
		return nil, fmt.Errorf("no miniature of %q", codename)
	}
	return &recipe{release: release, architecture: "armhf", rootSize: RootSize}, nil
}

// build lays the trees and does what the options want, in their order.
func (r *recipe) build(options []Option) {
	var later []Option
	for _, option := range options {
		if option.early != nil {
			option.early(r)
		}
		if option.late != nil {
			later = append(later, option)
		}
	}
	r.files, r.boot = map[string]file{}, map[string][]byte{}
	r.lay("debian", "raspberry")
	r.lay(r.release.codename)
	r.lay(r.extra...)
	r.unnamed()
	r.fill()
	for _, option := range later {
		option.late(r)
	}
}

// The ext4 features of Raspberry Pi OS, named one by one so that the machine's
// mke2fs.conf has no say: mke2fs' defaults without 64bit and huge_file
// (pi-gen, export-image/prerun.sh), of which those in more are newer.
func features(more ...string) string {
	const all = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,flex_bg," +
		"sparse_super,large_file,dir_nlink,extra_isize"
	return strings.Join(slices.Concat([]string{all}, more), ",")
}
