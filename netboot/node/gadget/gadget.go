// Package gadget makes a node that boots over its link a USB gadget: the
// network function that the root file system comes over, and a console
// (ttyGS0). firstboot/gadget makes the same for a node with a card; it finds
// this one bound and leaves it alone.
//
// It is not firstboot/gadget itself, for two reasons: the product is another
// (ClusterCTRL-usbboot, by which the controller names its end ethupiN), and
// that package brings JSON, program calls and logging into a program that
// stays in the memory of every node.
//
// Source: the kernel's Documentation/usb/gadget_configfs.rst; the numbers are
// ClusterCTRL's.
package gadget

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
)

// What the gadget calls itself: Product where the node's root comes over the link, and
// CardProduct where it has a card, which is to be written anew. The controller names its
// end by that, and has another bridge for it.
const (
	Product     = clusterctrl.USBProductName + "-usbboot"
	CardProduct = clusterctrl.USBProductName
)

// name is the gadget's folder, of no meaning outside of it.
const name = "clusterctrl"

// Places say where the kernel's side is.
type Places struct {
	Configfs string // /sys/kernel/config
	UDCs     string // /sys/class/udc
}

// System is the places of a running system.
func System() Places { return Places{"/sys/kernel/config", "/sys/class/udc"} }

// ErrNoController: the board has nothing that could be a gadget (yet).
var ErrNoController = errors.New("there is no USB device controller")

// Ensure makes the gadget of a slot and binds it to the first device
// controller, which it gives. What an earlier call left half made is completed;
// one that is bound is left alone.
func Ensure(slot int, function, product string, p Places) (controller string, made bool, err error) {
	number, ok := map[string]int{"ecm": clusterctrl.USBProductECM, "ncm": clusterctrl.USBProductNCM}[function]
	if !ok {
		return "", false, fmt.Errorf("USB network function %q is neither ecm nor ncm", function)
	}
	controllers, err := os.ReadDir(p.UDCs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("cannot look for a USB device controller: %w", err)
	}
	if len(controllers) == 0 {
		return "", false, ErrNoController
	}
	gadgets := filepath.Join(p.Configfs, "usb_gadget")
	there, err := os.ReadDir(gadgets)
	if err != nil {
		return "", false, fmt.Errorf("the kernel has no USB gadgets: %w (module libcomposite is not loaded)", err)
	}
	for _, g := range there {
		text, err := os.ReadFile(filepath.Join(gadgets, g.Name(), "UDC"))
		if bound := strings.TrimSpace(string(text)); err == nil && bound != "" {
			return bound, false, nil
		}
	}
	controller = controllers[0].Name()
	if err := build(filepath.Join(gadgets, name), slot, function, number, product, controller); err != nil {
		return "", false, fmt.Errorf("cannot make the USB gadget of slot %d: %w", slot, err)
	}
	return controller, true, nil
}

// build goes in the kernel's order: the functions are whole before a
// configuration has them, and the device controller comes last.
func build(gadget string, slot int, function string, number int, product, controller string) error {
	network, console := function+".usb0", "acm.usb0"
	var err error // the first one ends it
	mkdir := func(dir string) {
		if err == nil {
			err = os.MkdirAll(filepath.Join(gadget, dir), 0o755)
		}
	}
	write := func(file, text string) {
		if err == nil {
			if err = os.WriteFile(filepath.Join(gadget, file), []byte(text+"\n"), 0o644); err != nil {
				err = fmt.Errorf("%q: %w", text, err)
			}
		}
	}
	linked := func(function string) bool {
		_, err := os.Lstat(filepath.Join(gadget, "configs/c.1", function))
		return err == nil
	}

	mkdir("")
	write("idVendor", fmt.Sprintf("0x%04x", clusterctrl.USBVendor))
	write("idProduct", fmt.Sprintf("0x%04x", number))
	write("bcdDevice", "0x0100")
	write("bcdUSB", "0x0200")
	// Interface association descriptors: two functions of several interfaces.
	write("bDeviceClass", "0xEF")
	write("bDeviceSubClass", "0x02")
	write("bDeviceProtocol", "0x01")

	mkdir("strings/0x409") // US English
	write("strings/0x409/serialnumber", strconv.Itoa(slot))
	write("strings/0x409/manufacturer", "hatchery")
	write("strings/0x409/product", product)

	mkdir("functions/" + network)
	mkdir("functions/" + console)
	if !linked(network) {
		// The kernel refuses to change the addresses of a function in use.
		write("functions/"+network+"/host_addr", clusterctrl.ControllerMAC(slot).String())
		write("functions/"+network+"/dev_addr", clusterctrl.NodeMAC(slot).String())
	}

	mkdir("configs/c.1/strings/0x409")
	write("configs/c.1/MaxPower", "250") // mA
	write("configs/c.1/strings/0x409/configuration", "network and console")
	for _, function := range []string{network, console} {
		if err == nil && !linked(function) {
			err = os.Symlink(filepath.Join(gadget, "functions", function), filepath.Join(gadget, "configs/c.1", function))
		}
	}
	write("UDC", controller)
	return err
}
