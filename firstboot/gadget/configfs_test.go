package gadget_test

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// configfs is a folder with the rules of the kernel's drivers/usb/gadget
// (configfs.c, and u_ether_configfs.h for the functions): what a folder holds
// when it is made, what may be written when, and what binding asks for.
type configfs struct {
	gadgets string // the folder usb_gadget
	udcs    []string
	log     []string // what was changed, in order
	fail    int      // the call, from 1, that fails; 0: none
}

// attributes are what a folder holds from its first moment on.
var attributes = []struct {
	folder string
	files  []string
	dirs   []string
}{
	{`^[^/]+$`, []string{
		"UDC", "bDeviceClass", "bDeviceProtocol", "bDeviceSubClass", "bMaxPacketSize0", "bcdDevice", "bcdUSB", "idProduct", "idVendor", "max_speed",
	}, []string{"configs", "functions", "os_desc", "strings"}},
	{`^[^/]+/strings/0x[0-9a-f]+$`, []string{"manufacturer", "product", "serialnumber"}, nil},
	{`^[^/]+/functions/(ecm|ncm)\.[^/]+$`, []string{"dev_addr", "host_addr", "ifname", "qmult"}, nil},
	{`^[^/]+/functions/acm\.[^/]+$`, []string{"console", "port_num"}, nil},
	{`^[^/]+/configs/[^/]+\.[0-9]+$`, []string{"MaxPower", "bmAttributes"}, []string{"strings"}},
	{`^[^/]+/configs/[^/]+/strings/0x[0-9a-f]+$`, []string{"configuration"}, nil},
}

func (c *configfs) call(what string) error {
	c.log = append(c.log, what)
	if len(c.log) == c.fail {
		return errors.New("out of luck")
	}
	return nil
}

func (c *configfs) rel(name string) string {
	rel, err := filepath.Rel(c.gadgets, name)
	if err != nil {
		return name
	}
	return filepath.ToSlash(rel)
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func (c *configfs) Mkdir(name string) error {
	rel := c.rel(name)
	if exists(name) {
		return nil
	}
	if err := c.call("mkdir " + rel); err != nil {
		return err
	}
	for _, a := range attributes {
		if !regexp.MustCompile(a.folder).MatchString(rel) {
			continue
		}
		if err := os.Mkdir(name, 0o755); err != nil {
			return err
		}
		for _, dir := range a.dirs {
			if err := os.Mkdir(filepath.Join(name, dir), 0o755); err != nil {
				return err
			}
		}
		for _, file := range a.files {
			if err := os.WriteFile(filepath.Join(name, file), []byte("\n"), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("mkdir %s: %w", rel, syscall.EPERM)
}

func (c *configfs) Write(name, text string) error {
	rel := c.rel(name)
	if err := c.call("write " + rel + " " + strings.TrimSuffix(text, "\n")); err != nil {
		return err
	}
	if !exists(name) {
		return fmt.Errorf("write %s: %w", rel, syscall.EPERM)
	}
	gadget, _, _ := strings.Cut(rel, "/")
	gadget = filepath.Join(c.gadgets, gadget)
	switch path.Base(rel) {
	case "host_addr", "dev_addr":
		// A function that a configuration has is in use.
		if used, _ := filepath.Glob(filepath.Join(gadget, "configs", "*", path.Base(path.Dir(rel)))); len(used) > 0 {
			return fmt.Errorf("write %s: %w", rel, syscall.EBUSY)
		}
	case "UDC":
		functions, _ := filepath.Glob(filepath.Join(gadget, "configs", "*", "*.usb0"))
		bound, err := os.ReadFile(name)
		switch {
		case err != nil:
			return err
		case strings.TrimSpace(string(bound)) != "":
			return fmt.Errorf("write %s: %w", rel, syscall.EBUSY)
		case len(functions) == 0:
			return fmt.Errorf("write %s: %w", rel, syscall.EINVAL)
		case !slices.Contains(c.udcs, strings.TrimSpace(text)):
			return fmt.Errorf("write %s: %w", rel, syscall.ENODEV)
		}
	}
	return os.WriteFile(name, []byte(text), 0o644)
}

func (c *configfs) Symlink(target, name string) error {
	if err := c.call("link " + c.rel(name) + " -> " + c.rel(target)); err != nil {
		return err
	}
	if !exists(target) || !regexp.MustCompile(`^[^/]+/configs/[^/]+/[^/]+$`).MatchString(c.rel(name)) {
		return fmt.Errorf("link %s: %w", c.rel(name), syscall.ENOENT)
	}
	return os.Symlink(target, name)
}
