package emulator

import (
	"errors"
	"fmt"
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

// A link is a network card of a guest's.
type link struct {
	id      string
	mac     string
	backend string // -netdev's, without the id
}

// cableLink is a card at the end of a cable of ours: QEMU connects to the port.
func cableLink(id, mac string, port int) link {
	return link{id: id, mac: mac, backend: fmt.Sprintf("socket,connect=127.0.0.1:%d", port)}
}

// uplinkMAC is the controller's card to QEMU's user network: a locally
// administered address, as QEMU's own are.
const uplinkMAC = "52:54:00:48:41:54"

// userLink is a card on QEMU's user network, which leads to where this machine
// leads, and back by the forwards alone.
func userLink(mac, network, to string, forwards []Forward) link {
	backend := "user"
	if network != "" {
		backend += "," + network
	}
	for _, f := range forwards {
		backend += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-%s:%d", f.Local, to, f.Port)
	}
	return link{id: "uplink", mac: mac, backend: backend}
}

// aloneNetwork is the user network of a node without a controller: QEMU has the
// controller's address there, answers pings, and refuses everything else.
func aloneNetwork() string {
	return fmt.Sprintf("net=%s,host=%s,dhcpstart=172.19.181.200,dns=172.19.181.253", clusterctrl.Network, clusterctrl.ControllerAddr())
}

// arguments are QEMU's for a guest.
func qemuArguments(b board, files bootFiles, card string, links []link, timer int) []string {
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
	for _, l := range links {
		device := fmt.Sprintf("usb-net,netdev=%s,mac=%s", l.id, l.mac)
		if len(links) == 1 {
			// In the board's own port. Left to itself QEMU puts a hub there, and
			// the kernel asks that one too for its state all the time.
			device += ",port=1"
		}
		args = append(args, "-netdev", l.backend+",id="+l.id, "-device", device)
	}
	return args
}

// escape doubles commas, which end a value in QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
