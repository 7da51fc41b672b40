package netboottest_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
)

// rootVLAN is that of the root file systems.
const rootVLAN = 10

// A cable joins a guest's network card to the controller: what it sends with the
// tag of VLAN 10 arrives without at a port of brint, and what has no tag at a
// port of br0; the same back. That is what the controller's kernel does with
// ethupiN and ethupiN.10.
type cable struct {
	guest       *net.UnixConn // QEMU's datagrams, a frame each
	peer        *net.UnixAddr
	plain, root *os.File // the ports' TAP devices

	done                sync.WaitGroup
	toGuest, fromGuest  atomic.Int64 // bytes of frames of VLAN 10
	framesTo, framesOut atomic.Int64
}

// plug makes a slot's cable: the controller has its ports from now on, as when
// a gadget shows up.
func plug(m *enginetest.Machine, dir string, slot int) (*cable, error) {
	c := &cable{}
	var err error
	name := filepath.Join(dir, clusterctrl.SlotName(slot))
	for _, old := range []string{name + ".here", name + ".qemu"} {
		if err := os.RemoveAll(old); err != nil {
			return nil, err
		}
	}
	if c.guest, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name + ".here", Net: "unixgram"}); err != nil {
		return nil, err
	}
	// A guest that is held up does not lose the server's answers.
	if err := c.guest.SetWriteBuffer(4 << 20); err != nil {
		c.guest.Close()
		return nil, err
	}
	c.peer = &net.UnixAddr{Name: name + ".qemu", Net: "unixgram"}
	err = m.Do(func() error {
		var err error
		if c.plain, err = tap(fmt.Sprintf("%s%d", clusterctrl.BootLinkPrefix, slot)); err != nil {
			return err
		}
		c.root, err = tap(fmt.Sprintf("root%d", slot))
		return err
	})
	if err != nil {
		c.unplug()
		return nil, err
	}
	// As networkd does it, by overlays/controller.
	for _, line := range []string{
		fmt.Sprintf("%s%d address %s master %s up", clusterctrl.BootLinkPrefix, slot, clusterctrl.ControllerMAC(slot), clusterctrl.Bridge),
		fmt.Sprintf("root%d master %s up", slot, clusterctrl.InternalBridge),
	} {
		if err := ip(m, "link set "+line); err != nil {
			c.unplug()
			return nil, err
		}
	}
	c.done.Go(c.fromCard)
	c.done.Go(func() { c.toCard(c.plain, false) })
	c.done.Go(func() { c.toCard(c.root, true) })
	return c, nil
}

// tap makes a TAP device, which is there for as long as its file is open.
func tap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("making the TAP device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// unplug pulls it: the controller's ports are gone.
func (c *cable) unplug() {
	c.guest.Close()
	for _, f := range []*os.File{c.plain, c.root} {
		if f != nil {
			f.Close()
		}
	}
	c.done.Wait()
}

// socket is QEMU's network back end.
func (c *cable) socket(id string) string {
	return fmt.Sprintf("dgram,id=%s,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", id, c.peer.Name, c.guest.LocalAddr())
}

// longestFrame is more than an Ethernet frame with a tag has.
const longestFrame = 4096

func (c *cable) fromCard() {
	buffer := make([]byte, longestFrame)
	for {
		n, err := c.guest.Read(buffer)
		if err != nil {
			return
		}
		frame := buffer[:n]
		if n < 18 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_8021Q {
			_, _ = c.plain.Write(frame) // a port that is down takes nothing
			continue
		}
		if binary.BigEndian.Uint16(frame[14:])&0xfff != rootVLAN {
			continue
		}
		c.fromGuest.Add(int64(n))
		c.framesOut.Add(1)
		copy(frame[4:16], frame[:12])
		_, _ = c.root.Write(frame[4:])
	}
}

func (c *cable) toCard(from *os.File, tagged bool) {
	buffer := make([]byte, longestFrame)
	for {
		n, err := from.Read(buffer[4:])
		if err != nil {
			return
		}
		frame := buffer[4 : 4+n]
		if tagged {
			copy(buffer, buffer[4:16])
			binary.BigEndian.PutUint16(buffer[12:], unix.ETH_P_8021Q)
			binary.BigEndian.PutUint16(buffer[14:], rootVLAN)
			frame = buffer[:4+n]
			c.toGuest.Add(int64(len(frame)))
			c.framesTo.Add(1)
		}
		// Where no QEMU is (any more), it is lost.
		_, _ = c.guest.WriteToUnix(frame, c.peer)
	}
}

// rootBridge makes brint, where the roots' links arrive.
func rootBridge(t *testing.T, m *enginetest.Machine) {
	t.Helper()
	for _, line := range []string{
		"link add name brint type bridge forward_delay 0",
		"addr add 172.19.180.254/24 dev brint",
		"link set brint up",
	} {
		if err := ip(m, line); err != nil {
			t.Fatal(err)
		}
	}
}

// ip runs ip in a machine.
func ip(m *enginetest.Machine, line string) error {
	args := append([]string{"--net=" + m.NetNS(), "--", "ip"}, strings.Fields(line)...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", line, err, out)
	}
	return nil
}
