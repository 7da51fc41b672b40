package initramfs

import (
	"fmt"
	"strings"
)

// A NoModulesError says that the image has no modules for the kernel that is
// on its boot partition.
type NoModulesError struct {
	Kernel string   // its release
	Have   []string // the releases that there are modules for
}

func (e *NoModulesError) Error() string {
	have := "none at all"
	if len(e.Have) > 0 {
		have = "those for " + strings.Join(e.Have, ", ")
	}
	return fmt.Sprintf("the image has no modules for its kernel %s (/lib/modules has %s), so it cannot boot over the USB link: "+
		"kernel and modules must be of one package; reset the slot, or install its kernel package again on a node that runs", e.Kernel, have)
}

// A MissingError says that a module that is needed is neither in the image nor
// in the kernel.
type MissingError struct {
	Module string
	For    string // the module that needs it; "" for one that was asked for
	Kernel string // the kernel's release
	File   string // where modules.dep says that it is; "" where it is in no list
}

func (e *MissingError) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "kernel %s has no module %s", e.Kernel, e.Module)
	if e.For != "" {
		fmt.Fprintf(&s, ", which %s needs", e.For)
	}
	if e.File != "" {
		fmt.Fprintf(&s, " (modules.dep says that it is %s; the file is not there)", e.File)
	}
	s.WriteString(", nor is it built in, so the image cannot boot over the USB link: take an image with Raspberry Pi OS's or Debian's own kernel package")
	return s.String()
}

// A BrokenError says that a file of the image is not what its name says.
type BrokenError struct {
	File string
	Err  error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("%s of the image is broken: %v", e.File, e.Err)
}

// Unwrap gives the reason.
func (e *BrokenError) Unwrap() error { return e.Err }
