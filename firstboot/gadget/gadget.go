// Package gadget makes a node a USB gadget on its controller's port, by the
// kernel's libcomposite: a network function, which is the link to the
// controller, and a console (ACM, ttyGS0).
//
// A gadget that is bound to a device controller is never touched, whoever made
// it: the root file system may come over it.
package gadget

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
)

// name is the gadget's folder, of no meaning outside of it.
const name = "clusterctrl"

// A Function is how the link looks on the USB.
type Function string

// The network functions. NCM carries several frames in one transfer, but was
// seen with pings of 12 seconds.
const (
	ECM Function = "ecm"
	NCM Function = "ncm"
)

// product is ClusterCTRL's product id.
func (f Function) product() (int, error) {
	switch f {
	case ECM:
		return clusterctrl.USBProductECM, nil
	case NCM:
		return clusterctrl.USBProductNCM, nil
	}
	return 0, fmt.Errorf("USB network function %q is neither %q nor %q", f, ECM, NCM)
}

// Options say where the kernel's side is. The zero value is this system.
type Options struct {
	Configfs string // where configfs is mounted, /sys/kernel/config if empty
	UDCClass string // the device controllers, /sys/class/udc if empty
	// LoadModule loads a kernel module, if the gadget folder is not there; nil:
	// modprobe does.
	LoadModule func(ctx context.Context, name string) error
	Log        *slog.Logger // nil: none

	kernel kernel // the tests'
}

// A State is how the gadget stands.
type State string

// The states.
const (
	NoController State = "no-controller" // nothing that could be a gadget (yet): an emulated board, or a USB host
	Bound        State = "bound"         // it was bound already, and is as it was
	Made         State = "made"          // this call has made and bound it
)

// A Status says what there is.
type Status struct {
	State      State
	Gadget     string // its name in configfs; "" without a controller
	Controller string // the device controller, "20980000.usb"
}

// String is the status for people.
func (s Status) String() string {
	switch s.State {
	case Bound:
		return fmt.Sprintf("gadget %s is bound to %s already", s.Gadget, s.Controller)
	case Made:
		return fmt.Sprintf("gadget %s is made, and bound to %s", s.Gadget, s.Controller)
	}
	return "no USB device controller (yet): no gadget"
}

// A kernel is what the calls below go to: configfs, by its files.
type kernel interface {
	Mkdir(name string) error // one that is there is fine
	Write(name, text string) error
	Symlink(target, name string) error
}

// Ensure makes the gadget of a slot and binds it to the first device
// controller. What an earlier call left half made is completed. A board
// without a device controller is a status, and no error.
func Ensure(ctx context.Context, n *nodefile.Node, o Options) (Status, error) {
	if n.IsController() {
		return Status{}, errors.New("the controller is nobody's gadget")
	}
	function := Function(n.Gadget)
	if function == "" {
		function = ECM
	}
	if o.Configfs == "" {
		o.Configfs = "/sys/kernel/config"
	}
	if o.UDCClass == "" {
		o.UDCClass = "/sys/class/udc"
	}
	if o.LoadModule == nil {
		o.LoadModule = modprobe
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.kernel == nil {
		o.kernel = files{}
	}
	product, err := function.product()
	if err != nil {
		return Status{}, err
	}
	controller, err := first(o.UDCClass)
	if err != nil {
		return Status{}, fmt.Errorf("cannot look for a USB device controller: %w", err)
	}
	if controller == "" {
		return Status{State: NoController}, nil
	}
	gadgets := filepath.Join(o.Configfs, "usb_gadget")
	if err := o.makeReady(ctx, gadgets); err != nil {
		return Status{}, err
	}
	if bound, err := findBound(gadgets); err != nil || bound != nil {
		return bound.status(), err
	}
	if err := ctx.Err(); err != nil {
		return Status{}, err
	}
	if err := o.build(filepath.Join(gadgets, name), n.Slot, function, product, controller); err != nil {
		// Another program may have been faster.
		if bound, berr := findBound(gadgets); berr == nil && bound != nil {
			return bound.status(), nil
		}
		return Status{}, fmt.Errorf("cannot make the gadget of slot %d: %w", n.Slot, err)
	}
	s := Status{State: Made, Gadget: name, Controller: controller}
	o.Log.Info("gadget made", "slot", n.Slot, "function", function, "controller", controller)
	return s, nil
}

// makeReady has libcomposite's folder there.
func (o *Options) makeReady(ctx context.Context, gadgets string) error {
	if _, err := os.Stat(gadgets); err == nil {
		return nil
	}
	if err := o.LoadModule(ctx, "libcomposite"); err != nil {
		return fmt.Errorf("cannot load the kernel's USB gadgets: %w", err)
	}
	if _, err := os.Stat(gadgets); err != nil {
		return fmt.Errorf("the kernel has no USB gadgets: %w (is configfs mounted? systemctl start sys-kernel-config.mount)", err)
	}
	return nil
}

// build does what the kernel's Documentation/usb/gadget_configfs.rst has, in
// its order: the functions are whole before a configuration has them, and the
// device controller comes last.
func (o *Options) build(gadget string, slot int, function Function, product int, controller string) error {
	network, console := string(function)+".usb0", "acm.usb0"
	at := func(name string) string { return filepath.Join(gadget, name) }
	var err error // the first one ends it
	mkdir := func(name string) {
		if err == nil {
			err = o.kernel.Mkdir(at(name))
		}
	}
	write := func(name, text string) {
		if err == nil {
			err = o.kernel.Write(at(name), text+"\n")
		}
	}

	mkdir("")
	write("idVendor", fmt.Sprintf("0x%04x", clusterctrl.USBVendor))
	write("idProduct", fmt.Sprintf("0x%04x", product))
	write("bcdDevice", "0x0100")
	write("bcdUSB", "0x0200")
	// Interface association descriptors: two functions of several interfaces.
	write("bDeviceClass", "0xEF")
	write("bDeviceSubClass", "0x02")
	write("bDeviceProtocol", "0x01")

	mkdir("strings/0x409") // US English
	write("strings/0x409/serialnumber", strconv.Itoa(slot))
	write("strings/0x409/manufacturer", "hatchery")
	write("strings/0x409/product", clusterctrl.USBProductName)

	mkdir("functions/" + network)
	mkdir("functions/" + console)
	if !there(at("configs/c.1/" + network)) {
		// The kernel refuses to change the addresses of a function in use.
		write("functions/"+network+"/host_addr", clusterctrl.ControllerMAC(slot).String())
		write("functions/"+network+"/dev_addr", clusterctrl.NodeMAC(slot).String())
	}

	mkdir("configs/c.1")
	mkdir("configs/c.1/strings/0x409")
	write("configs/c.1/MaxPower", "250") // mA
	write("configs/c.1/strings/0x409/configuration", "network and console")
	for _, function := range []string{network, console} {
		if err == nil && !there(at("configs/c.1/"+function)) {
			err = o.kernel.Symlink(at("functions/"+function), at("configs/c.1/"+function))
		}
	}

	write("UDC", controller)
	return err
}

// A bound is a gadget that is at work.
type bound struct{ gadget, controller string }

func (b *bound) status() Status {
	if b == nil {
		return Status{}
	}
	return Status{State: Bound, Gadget: b.gadget, Controller: b.controller}
}

// findBound gives the gadget that is bound to a device controller, nil for
// none.
func findBound(gadgets string) (*bound, error) {
	entries, err := os.ReadDir(gadgets)
	if err != nil {
		return nil, fmt.Errorf("cannot list the gadgets: %w", err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(gadgets, e.Name(), "UDC"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// What cannot be read may be bound.
		if err != nil {
			return nil, fmt.Errorf("cannot see whether gadget %s is bound: %w", e.Name(), err)
		}
		if controller := strings.TrimSpace(string(text)); controller != "" {
			return &bound{e.Name(), controller}, nil
		}
	}
	return nil, nil
}

// first gives the first device controller by name, "" for none.
func first(class string) (string, error) {
	entries, err := os.ReadDir(class)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // a kernel without gadgets
	}
	if err != nil || len(entries) == 0 {
		return "", err
	}
	return entries[0].Name(), nil
}

func there(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// files is configfs itself.
type files struct{}

func (files) Mkdir(name string) error { return os.MkdirAll(name, 0o755) }

func (files) Symlink(target, name string) error { return os.Symlink(target, name) }

// Write makes one call of it, as the kernel takes an attribute.
func (files) Write(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%q: %w", strings.TrimSpace(text), err)
	}
	return nil
}

// modprobe knows what a module depends on, and how it is compressed.
func modprobe(ctx context.Context, name string) error {
	out, err := exec.CommandContext(ctx, "modprobe", name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
