package node

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/internal/clusterctrl"
	"hatchery/netboot/node/gadget"
	"hatchery/netboot/node/link"
	"hatchery/netboot/node/retry"
	"hatchery/netboot/node/rootdisk"
)

// cardPatience is for how long the card may take to appear.
const cardPatience = 10 * time.Second

// reimage has the card written anew, and starts the node from it. Where nothing is to
// be written it starts the system that the card holds. An error is what waiting will
// hardly change.
func (b *boot) reimage(arguments []string) error {
	policy := retry.Policy{First: time.Second, Longest: 30 * time.Second}
	for attempt := 1; ; attempt++ {
		b.at("writing the card anew")
		code, err := b.runWriter()
		switch {
		case err == nil && code == ReimageWhole:
			b.say("the card is whole: the node starts anew")
			reboot(unix.LINUX_REBOOT_CMD_RESTART)
		case err == nil && code == ReimageUntouched:
			b.say("the system on the card is started")
			return b.ownRoot(arguments)
		case err == nil:
			err = fmt.Errorf("%s has ended with %d: it is started again", ReimageProgram, code)
		}
		b.say("%v", err)
		b.shell.start()
		b.shell.wait(policy.Pause(attempt))
	}
}

// runWriter runs the program that writes the card, and keeps the link up meanwhile.
func (b *boot) runWriter() (code int, err error) {
	var out [2]int
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(out[0])
		unix.Close(out[1])
		return 0, err
	}
	pid, err := syscall.ForkExec(ReimageProgram, []string{ReimageProgram, strconv.Itoa(b.line.Slot)}, &syscall.ProcAttr{
		Dir: "/",
		// A Zero has one CPU and little memory.
		Env:   []string{"GOGC=50", "GOTRACEBACK=single"},
		Files: []uintptr{uintptr(null), uintptr(out[1]), uintptr(out[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	unix.Close(null)
	unix.Close(out[1])
	said := os.NewFile(uintptr(out[0]), "what reimage says")
	defer said.Close()
	if err != nil {
		return 0, fmt.Errorf("cannot start %s: %w (is this initramfs one of a card's image?)", ReimageProgram, err)
	}
	ended := make(chan unix.WaitStatus, 1)
	go func() {
		for lines := bufio.NewScanner(said); lines.Scan(); {
			b.say("reimage: %s", lines.Text())
		}
		var status unix.WaitStatus
		for {
			_, err := unix.Wait4(pid, &status, 0, nil)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		ended <- status
	}()
	teller := retry.Teller{}
	for began := time.Now(); ; {
		err := b.bringUpPlain()
		if waited := time.Since(began); err != nil && waited > time.Second && teller.Tell(waited, err.Error()) {
			b.say("waiting (%.0f s): %v", waited.Seconds(), err)
			for _, fault := range b.faults {
				b.say("%s", fault)
			}
		}
		if err != nil && time.Since(began) > shellPatience {
			b.shell.start()
		}
		pause := time.NewTimer(500 * time.Millisecond)
		select {
		case status := <-ended:
			pause.Stop()
			if !status.Exited() {
				return 0, fmt.Errorf("%s was ended by a signal (%v): it is started again", ReimageProgram, status.Signal())
			}
			return status.ExitStatus(), nil
		case <-pause.C:
		}
	}
}

// bringUpPlain has the link there as a node with a card has it: with its address on
// the nodes' own network.
func (b *boot) bringUpPlain() error {
	if b.links == nil {
		links, err := link.Open()
		if err != nil {
			return err
		}
		b.links = links
		links.Up("lo")
	}
	if !b.gadget {
		err := b.makeGadget()
		if err != nil && (!errors.Is(err, gadget.ErrNoController) || time.Since(b.began) < controllerPatience) {
			return err
		}
	}
	i, done, err := b.links.EnsurePlain(b.line.Slot, netip.PrefixFrom(clusterctrl.SlotAddr(b.line.Slot), clusterctrl.Network.Bits()))
	if len(done) > 0 {
		b.say("%s", strings.Join(done, ", "))
	}
	if err == nil && !i.Carrier {
		err = fmt.Errorf("%s has no carrier: the controller has not taken the USB device (yet)", i.Name)
	}
	return err
}

// ownRoot starts the system that the node's card holds.
func (b *boot) ownRoot(arguments []string) error {
	b.at("mounting the card's root file system")
	node, p, err := b.findCard()
	if err != nil {
		return err
	}
	if !isMounted(newRoot) {
		if err := b.mountRoot(node, p, false); err != nil {
			return err
		}
	}
	program, err := findInit(b.line.Init)
	if err != nil {
		unix.Unmount(newRoot, 0)
		return err
	}
	b.say("root file system: %s (%s), mounted after %.2f s; starting %s", node, p, uptime().Seconds(), program)
	return b.enter(program, arguments)
}

// findCard looks for the disk that has what root= names.
func (b *boot) findCard() (node string, p rootdisk.Partition, err error) {
	for began := time.Now(); ; {
		entries, err := os.ReadDir("/sys/class/block")
		if err != nil {
			return "", p, err
		}
		why := errors.New("there is no card: is it in its slot?")
		for _, e := range entries {
			name := e.Name()
			if _, err := os.Stat("/sys/class/block/" + name + "/partition"); err == nil || !isCard(name) {
				continue
			}
			if p, err = readCard(name, b.line.Device); err != nil {
				why = err
				continue
			}
			part := name
			if p.Number != 0 {
				if last := name[len(name)-1]; last >= '0' && last <= '9' {
					part += "p"
				}
				part += strconv.Itoa(p.Number)
			}
			node, err := awaitDevice(part, cardPatience)
			return node, p, err
		}
		if time.Since(began) > cardPatience {
			return "", p, why
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// isCard says whether a disk may be a card, by its name.
func isCard(name string) bool {
	for _, kind := range []string{"mmcblk", "vd", "sd"} {
		if strings.HasPrefix(name, kind) {
			return !strings.Contains(name, "boot") && !strings.Contains(name, "rpmb")
		}
	}
	return false
}

func readCard(name, root string) (p rootdisk.Partition, err error) {
	device, err := awaitDevice(name, time.Second)
	if err != nil {
		return p, err
	}
	f, err := os.Open(device)
	if err != nil {
		return p, err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return p, err
	}
	d, err := rootdisk.Read(f, size)
	if err != nil {
		return p, err
	}
	return d.Find(root)
}
