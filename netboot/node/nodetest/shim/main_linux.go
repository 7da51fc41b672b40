// Shim is started in nodeinit's place, by a kernel that has a USB host and a
// device controller wired to each other (dummy_hcd): it becomes nodeinit, and
// leaves a process behind that plays the controller. That bridges the gadget's
// other end to the network card, says what the USB device calls itself, shows
// what comes by the gadget's console, and types there what a test wants, once
// nodeinit cannot go on.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"hatchery/internal/clusterctrl"
)

func main() {
	if os.Getpid() != 1 {
		play()
		return
	}
	console, err := syscall.Open("/dev/console", syscall.O_RDWR, 0)
	if err == nil {
		_, err = syscall.ForkExec("/init", []string{"/init"}, &syscall.ProcAttr{Files: []uintptr{uintptr(console), uintptr(console), uintptr(console)}, Sys: &syscall.SysProcAttr{Setsid: true}})
	}
	if err != nil {
		fmt.Println("SHIM", err)
	}
	fmt.Println("SHIM", syscall.Exec("/nodeinit", []string{"/init"}, os.Environ()))
}

func say(format string, args ...any) {
	fmt.Printf("\r\nSHIM "+format+"\r\n", args...)
}

func play() {
	for !bridged() {
		time.Sleep(50 * time.Millisecond)
	}
	devices, _ := filepath.Glob("/sys/bus/usb/devices/*/idVendor")
	for _, d := range devices {
		var words []string
		for _, name := range []string{"idVendor", "idProduct", "product", "serial"} {
			text, _ := os.ReadFile(filepath.Join(filepath.Dir(d), name))
			words = append(words, strings.TrimSpace(string(text)))
		}
		say("USB %s", strings.Join(words, " "))
	}
	var port *os.File
	for port == nil {
		port, _ = os.OpenFile("/dev/ttyACM0", os.O_RDWR|syscall.O_NOCTTY, 0)
		time.Sleep(20 * time.Millisecond)
	}
	// A command line may say what is typed: shim.type=try_root=/dev/mmcblk0p2
	typed := ""
	line, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(line)) {
		if value, ok := strings.CutPrefix(word, "shim.type="); ok {
			typed = strings.ReplaceAll(value, "_", " ")
		}
	}
	var seen []byte
	for buffer := make([]byte, 4096); ; {
		n, err := port.Read(buffer)
		if err != nil {
			say("ttyACM0: %v", err)
			return
		}
		for part := range bytes.SplitSeq(buffer[:n], []byte("\n")) {
			say("ACM %s", bytes.TrimRight(part, "\r"))
		}
		seen = append(seen, buffer[:n]...)
		if typed != "" && bytes.Contains(seen, []byte("CANNOT GO ON")) && bytes.Contains(seen, []byte("help lists the commands")) {
			go func(line string) {
				for { // as somebody would who sees nothing happen
					fmt.Fprintf(port, "\n%s\n", line)
					time.Sleep(5 * time.Second)
				}
			}(typed)
			typed = ""
		}
	}
}

// bridged joins the gadget's other end with the network card, once it is there.
func bridged() bool {
	links, err := netlink.LinkList()
	if err != nil {
		return false
	}
	var ports []netlink.Link
	for _, l := range links {
		if l.Attrs().Name == "eth0" || bytes.Equal(l.Attrs().HardwareAddr, clusterctrl.ControllerMAC(7)) {
			ports = append(ports, l)
		}
	}
	if len(ports) != 2 {
		return false
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	errs := []error{netlink.LinkAdd(bridge)}
	for _, p := range ports {
		errs = append(errs, netlink.LinkSetMaster(p, bridge), netlink.LinkSetUp(p))
	}
	errs = append(errs, netlink.LinkSetUp(bridge))
	say("bridged %s and %s: %v", ports[0].Attrs().Name, ports[1].Attrs().Name, errs)
	return true
}
