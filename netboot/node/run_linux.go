package node

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/netboot/node/bootline"
	"hatchery/netboot/node/gadget"
	"hatchery/netboot/node/link"
	"hatchery/netboot/node/modules"
	"hatchery/netboot/node/nbdclient"
	"hatchery/netboot/node/nbdlink"
	"hatchery/netboot/node/retry"
	"hatchery/netboot/node/rootdisk"
)

// What the running system finds of the start, on /run.
const (
	Status     = "/run/hatchery/nodeinit" // how it attached and when, and all that was said
	LinkStatus = "/run/hatchery/link"     // how the connection stands, kept up to date
)

// controllerPatience is for how long a USB device controller may take to
// appear, before another interface is looked for. It is looked for on: a Zero
// has no other interface.
const controllerPatience = 2 * time.Second

// shellPatience is how long everything is waited for before somebody may want
// to look.
const shellPatience = 20 * time.Second

// A boot is the way from the kernel's start to the root's init.
type boot struct {
	*journal
	shell   *shell
	text    string // the kernel's command line, and what was tried on it
	line    bootline.Line
	loaded  map[string]bool
	faults  []string // modules that could not be loaded
	printk  string   // as it was before
	links   *link.Kernel
	export  nbdclient.Export
	disk    rootdisk.Disk
	root    rootdisk.Partition
	block   int
	keeper  *keeperHandle
	began   time.Time
	gadget  bool
	stage   atomic.Value // what it is at, for the shell
	mounted time.Duration
	connect time.Duration
	memory  int64 // of an ephemeral root's changes
}

// Run is the main function of /init. It ends by becoming the root's init.
func Run(arguments []string) {
	b := &boot{loaded: map[string]bool{}, began: time.Now()}
	mounting := mountSystem()
	b.journal = openJournal()
	const devkmsg = "/proc/sys/kernel/printk_devkmsg"
	if was, err := os.ReadFile(devkmsg); err == nil {
		b.printk = strings.TrimSpace(string(was))
		os.WriteFile(devkmsg, []byte("on\n"), 0o644) // else the kernel keeps ten lines of it
	}
	b.shell = newShell(b)
	if console, err := openConsole(kernelConsole); err == nil {
		b.add(console)
	}
	b.say("the node's first program begins")
	if mounting != nil {
		b.say("%v", mounting)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		b.say("cannot read the command line: %v", err)
	}
	b.text = strings.TrimSpace(string(line))

	policy := retry.Policy{First: 2 * time.Second, Longest: 30 * time.Second}
	last := ""
	failed := time.Time{}
	for attempt := 1; ; attempt++ {
		err := b.start(arguments)
		words := err.Error()
		if len(b.faults) > 0 {
			words += "\n(" + strings.Join(b.faults, "\n ") + ")"
		}
		if words != last {
			b.say("CANNOT GO ON: %s", words)
			b.shell.start()
			last = words
			failed = time.Now()
		}
		b.rescue()
		b.shell.wait(policy.Pause(attempt))
		if b.line.Panic != 0 && !b.shell.used() && time.Since(failed) > time.Duration(max(0, b.line.Panic))*time.Second {
			b.say("panic=%d: the node starts anew", b.line.Panic)
			reboot(unix.LINUX_REBOOT_CMD_RESTART)
		}
	}
}

// rescue has the gadget there even where what comes before it has failed: its
// console is the only one that can be reached.
func (b *boot) rescue() {
	if !b.gadget && b.line.Slot != 0 {
		b.makeGadget()
	}
}

func (b *boot) at(stage string) { b.stage.Store(stage) }

// start does everything, and gives what has come in its way. What an earlier
// attempt has done stays done.
func (b *boot) start(arguments []string) error {
	b.at("reading the command line")
	line, err := bootline.Parse(b.text)
	b.line = line
	if merr := b.loadModules(); err == nil {
		err = merr
	}
	if err != nil {
		return fmt.Errorf("the kernel's command line is not complete: %w (cmdline.txt of the slot's boot files)", err)
	}
	if b.line.Root == bootline.Reimage {
		return b.reimage(arguments)
	}
	if b.keeper != nil && !b.keeper.alive() {
		return errors.New("the process that keeps the connection has ended: power-cycle the node")
	}
	if b.keeper == nil {
		if err := b.attach(); err != nil {
			return err
		}
	}
	b.at("mounting the root file system")
	node, err := partition(b.root)
	if err != nil {
		return err
	}
	if !isMounted(newRoot) {
		if b.line.Root == bootline.Ephemeral {
			if node, err = b.ephemeral(node, b.root.Size); err != nil {
				return err
			}
		}
		if err := b.mountRoot(node, b.root, b.export.ReadOnly()); err != nil {
			return err
		}
	}
	b.mounted = uptime()
	program, err := findInit(b.line.Init)
	if err != nil {
		unix.Unmount(newRoot, 0) // another attempt may have another root=
		return err
	}
	if b.line.Root == bootline.Ephemeral {
		device := node[strings.LastIndexByte(node, '/')+1:]
		if err := b.keeper.call(fmt.Sprintf("memory %s %s %d", newRoot, device, b.memory)); err != nil {
			b.say("the root is not kept from filling its memory: %v", err)
		}
	}
	b.say("root file system: %s (%s), mounted after %.2f s; starting %s", node, b.root, b.mounted.Seconds(), program)
	b.writeStatus(node, program)
	return b.enter(program, arguments)
}

// enter makes the mounted root the root, and becomes its init.
func (b *boot) enter(program string, arguments []string) error {
	b.shell.stop()
	if b.printk != "" {
		os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte(b.printk+"\n"), 0o644)
	}
	if err := switchRoot(); err != nil {
		return err
	}
	environment := append(os.Environ(), "HOME=/", "TERM=linux")
	err := unix.Exec(program, append([]string{program}, arguments...), environment)
	return fmt.Errorf("cannot start %s: %w (is it built for this processor?)", program, err)
}

// loadModules loads what is not loaded. What fails may not be wanted: it is
// told with what fails for want of it.
func (b *boot) loadModules() error {
	b.at("loading modules")
	text, err := os.ReadFile(modules.List)
	if err != nil {
		if os.IsNotExist(err) {
			b.faults = []string{"the initramfs names no modules: " + modules.List + " is missing"}
			return nil
		}
		return err
	}
	list, err := modules.Parse(string(text), b.line.Modules)
	if err != nil {
		return err
	}
	b.faults = nil
	n := 0
	for _, m := range list {
		if b.loaded[m.Path] {
			continue
		}
		if err := m.Load(); err != nil {
			b.faults = append(b.faults, err.Error())
			continue
		}
		b.loaded[m.Path] = true
		n++
	}
	mountConfigfs()
	if n > 0 {
		b.say("%d kernel modules loaded", n)
	}
	for _, fault := range b.faults {
		b.say("%s", fault)
	}
	return nil
}

// makeGadget makes the USB gadget, if the board can be one.
func (b *boot) makeGadget() error {
	product := gadget.Product
	if b.line.Root == bootline.Reimage {
		product = gadget.CardProduct
	}
	controller, made, err := gadget.Ensure(b.line.Slot, b.line.Gadget, product, gadget.System())
	if err != nil {
		return err
	}
	b.gadget = true
	if made {
		b.say("USB gadget %s (%s), serial %d, at %s", product, b.line.Gadget, b.line.Slot, controller)
	}
	if console, err := openConsole(gadgetConsole); err == nil {
		b.shell.offer(gadgetConsole, console)
		b.add(console)
	}
	return nil
}

// bringUp has the link there, with its address.
func (b *boot) bringUp() error {
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
	i, done, err := b.links.Ensure(b.line.Slot, b.line.Address())
	if len(done) > 0 {
		b.say("%s", strings.Join(done, ", "))
	}
	if err == nil && !i.Carrier {
		err = fmt.Errorf("%s has no carrier: the controller has not taken the USB device (yet)", i.Name)
	}
	return err
}

// attach waits for the link and the server, for as long as it takes, and gives
// the kernel the disk. An error is what waiting will hardly change.
func (b *boot) attach() error {
	b.at("waiting for the link and the NBD server")
	teller := retry.Teller{}
	policy := retry.Policy{First: 100 * time.Millisecond, Longest: 2 * time.Second}
	for attempt, began := 1, time.Now(); ; attempt++ {
		if time.Since(began) > shellPatience {
			b.shell.start()
		}
		var c *connection
		var e nbdclient.Export
		err := b.bringUp()
		if err == nil {
			c, e, err = open(b.line.Address().Addr(), b.line.Server, b.line.Export)
		}
		if err == nil {
			err = b.take(c, e)
			if err != nil {
				c.Close()
			}
			return err
		}
		for _, final := range []error{nbdclient.ErrUnknown, nbdclient.ErrRefused, nbdclient.ErrTLS, nbdclient.ErrProtocol} {
			if errors.Is(err, final) {
				return fmt.Errorf("%w (on the controller: hatchery netboot enable %s; hatchery status)", err, b.line.Export)
			}
		}
		if waited := time.Since(began); waited > time.Second && teller.Tell(waited, err.Error()) {
			b.say("waiting (%.0f s): %v", waited.Seconds(), err)
			for _, fault := range b.faults {
				b.say("%s", fault)
			}
		}
		b.shell.wait(policy.Pause(attempt))
	}
}

// take gives an open export to the kernel.
func (b *boot) take(c *connection, e nbdclient.Export) error {
	b.at("attaching the disk")
	var err error
	b.export = e
	c.deadline = time.Now().Add(requestPatience)
	if b.disk, err = rootdisk.Read(nbdclient.NewReader(c, e), e.Size); err != nil {
		return fmt.Errorf("export %s: %w", b.line.Export, err)
	}
	if b.root, err = b.disk.Find(b.line.Device); err != nil {
		return err
	}
	if b.block, err = nbdlink.BlockSize(b.disk.Partitioned, b.root.BlockSize, e.MinBlock); err != nil {
		return err
	}
	if b.line.Root == bootline.Netboot && e.ReadOnly() {
		return fmt.Errorf("the controller gives export %s for reading only, and this slot's root is to be written to: set root: ephemeral for it, or have the controller give it a disk of its own (hatchery netboot reset %s)", b.line.Export, b.line.Export)
	}
	nbd, err := nbdlink.Dial()
	if err != nil {
		return err
	}
	defer nbd.Close()
	device := nbdlink.Device{
		Index: 0, Size: e.Size, BlockSize: b.block, Flags: e.Flags &^ nbdclient.FlagMultiConn,
		Timeout: requestPatience, DeadConnection: deadConnection,
	}
	if b.line.Root == bootline.Ephemeral {
		// The snapshot takes discards, which give memory back, only if what it
		// reads from takes them too. It never passes one on.
		device.Flags |= nbdclient.FlagTrim
	}
	if err := nbd.Connect(device, c.fd); err != nil {
		return err
	}
	b.connect = uptime()
	settings := keeperSettings{
		slot: b.line.Slot, own: b.line.Address(), server: b.line.Server, export: b.line.Export,
		size: e.Size, readOnly: e.ReadOnly(), root: b.root.Start, uuid: b.root.UUID,
	}
	if b.keeper, err = settings.start(c); err != nil {
		b.keeper = nil
		nbd.Disconnect(0)
		return err
	}
	c.Close() // the kernel and the keeper have it
	b.say("export %s of %s is /dev/nbd0 after %.2f s: %d MiB in blocks of %d, %s", b.line.Export, b.line.Server, b.connect.Seconds(), e.Size>>20, b.block, b.disk)
	return nil
}

// writeStatus leaves word for the running system.
func (b *boot) writeStatus(node, program string) {
	text := fmt.Sprintf(`slot: %d
root: %s
server: %s
export: %s
size: %d
block-size: %d
read-only: %v
attached: %.2f s after the kernel's start
mounted: %.2f s after the kernel's start
device: %s
file-system: %s, UUID %s
init: %s
keeper: %d

`, b.line.Slot, b.line.Root, b.line.Server, b.line.Export, b.export.Size, b.block, b.export.ReadOnly(),
		b.connect.Seconds(), b.mounted.Seconds(), node, b.root.FS, b.root.UUID, program, b.keeper.pid)
	if err := os.WriteFile(Status, []byte(text+b.journal.text()), 0o644); err != nil {
		b.say("cannot leave word for the system: %v", err)
	}
}

func reboot(how int) {
	unix.Sync()
	unix.Reboot(how)
}
