package emulator

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"hatchery/internal/clusterctrl"
)

// findQEMU looks for a program of QEMU's.
func findQEMU(program string) (string, error) {
	found, err := exec.LookPath(program)
	if errors.Is(err, exec.ErrDot) {
		return "", fmt.Errorf("%s lies in the present folder: name it by its path", program)
	}
	if err != nil {
		return "", &NotInstalledError{Program: program}
	}
	// It is started with another working directory.
	return filepath.Abs(found)
}

// wiring is what a guest's USB ports have.
type wiring struct {
	cards  []*usbCard
	uplink *uplink // among them; nil without
	user   string  // the options of its user network
}

// userNetwork are the options of QEMU's user network, which leads to where this machine
// leads, and back by the forwards alone.
func userNetwork(network, to string, forwards []Forward) string {
	options := "user"
	if network != "" {
		options += "," + network
	}
	for _, f := range forwards {
		options += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-%s:%d", f.Local, to, f.Port)
	}
	return options
}

// uplinkMAC is the controller's card to QEMU's user network: a locally
// administered address, as QEMU's own are.
var uplinkMAC = net.HardwareAddr{0x52, 0x54, 0x00, 0x48, 0x41, 0x54}

// aloneNetwork is the user network of a node without a controller: QEMU has the
// controller's address there, answers pings, and refuses everything else.
func aloneNetwork() string {
	return fmt.Sprintf("net=%s,host=%s,dhcpstart=172.19.181.200,dns=172.19.181.253", clusterctrl.Network, clusterctrl.ControllerAddr())
}

// qemuArguments are QEMU's for a guest.
func qemuArguments(b board, files bootFiles, card string, w wiring, timer int) []string {
	args := []string{
		"-M", b.name,
		"-kernel", files.kernel, "-dtb", files.tree,
	}
	if files.initrd != "" {
		args = append(args, "-initrd", files.initrd)
	}
	args = append(args,
		"-append", files.arguments,
		// unsafe: what the card holds is thrown away, or lost with this
		// machine's power, as a card would be.
		"-drive", "if=sd,format=qcow2,cache=unsafe,file="+escape(card),
		"-display", "none", "-monitor", "none", "-serial", "stdio",
		// A guest that reboots ends QEMU: the boot loader's work is ours.
		"-no-reboot",
		// The timer's registers, see watch.go.
		"-qtest", "tcp:127.0.0.1:"+strconv.Itoa(timer), "-qtest-log", "none",
	)
	for i, c := range w.cards {
		device := fmt.Sprintf("usb-redir,chardev=card%d", i)
		if len(w.cards) == 1 {
			// In the board's own port. Left to itself QEMU puts a hub there, which the
			// guest's kernel asks for its state all the time.
			device += ",port=1"
		}
		args = append(args, "-chardev", fmt.Sprintf("socket,id=card%d,host=127.0.0.1,port=%d", i, c.port()), "-device", device)
	}
	if w.uplink != nil {
		args = append(args,
			"-netdev", w.user+",id=user",
			"-netdev", fmt.Sprintf("socket,id=uplink,connect=127.0.0.1:%d", w.uplink.port()),
			// What joins the two.
			"-netdev", "hubport,id=user-port,hubid=0,netdev=user",
			"-netdev", "hubport,id=uplink-port,hubid=0,netdev=uplink")
	}
	return args
}

// escape doubles commas, which end a value in QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
