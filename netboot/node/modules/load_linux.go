package modules

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Load gives a module to the kernel. One that is there already is fine.
func (m Module) Load() error {
	f, err := os.Open(m.Path)
	if err != nil {
		return fmt.Errorf("module %s is not in the initramfs: %w (make the initramfs anew)", m.Name(), err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), m.Parameters, 0)
	switch {
	case err == nil || errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("module %s is made for another kernel: %w (make the initramfs anew)", m.Name(), err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("module %s lacks what another module would give it: %w (the order of %s is wrong)", m.Name(), err, List)
	}
	return fmt.Errorf("module %s: the kernel does not take it: %w", m.Name(), err)
}
