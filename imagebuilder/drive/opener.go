package drive

import (
	"context"
	"os"
)

// OpenThrough opens a drive by a command that has the rights for it: `sudo
// …/hatchery open-card`, whose program calls [ServeOpener]. Only that small
// process is privileged; it looks at the drive and judges it by itself, unmounts
// and opens it, hands the open drive over and stays until the handle is closed.
//
// The command's standard input is a socket; a password is asked for on the
// terminal, and what it prints goes to standard error. There is no limit to how
// long somebody may look for the password: ctx ends the wait.
//
// Errors are those of [Open]. On Windows there is none such: hatchery has to be
// started with an administrator's rights.
func OpenThrough(ctx context.Context, command []string, d Drive, o OpenOptions) (*Handle, error) {
	return openThrough(ctx, command, d, o)
}

// ServeOpener is the privileged side of [OpenThrough]; socket is its standard
// input. It opens disks and loop devices, never files: whoever may run it may not
// read and write all there is. It ends with the socket or ctx; what the other
// side was told is no error here.
//
// An interrupt from the terminal reaches it as well as the one that it serves: it
// should be left to that one.
func ServeOpener(ctx context.Context, socket *os.File) error { return serveOpener(ctx, socket) }
