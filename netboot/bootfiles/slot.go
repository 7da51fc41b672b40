package bootfiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"hatchery/internal/bootpart"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/debarch"
	"hatchery/internal/ext4"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"

	"hatchery/netboot/initramfs"
)

// nbdPort is IANA's port of NBD.
const nbdPort = 10809

// A slot is a Boot while it is put together.
type slot struct {
	ctx   context.Context
	o     Options
	boot  *Boot
	table *parttable.Table
	board board
	// config is the adapted one; prefix what the firmware puts in front of the
	// names of kernel, device tree, command line and initramfs, overlays the
	// folder of overlays.
	config           *config
	prefix, overlays string
	tree, treeWhy    string // the device tree; "" for none
	kernelWhy        string
	cmdlineName      string
	cmdlineWhy       string
	root             *ext4.FS
	missing          []Missing
}

// newSlot reads what decides everything: who the node is, config.txt, the
// kernel and the command line.
func newSlot(ctx context.Context, o Options) (*slot, error) {
	if err := complete(&o); err != nil {
		return nil, err
	}
	s := &slot{ctx: ctx, o: o, boot: &Boot{made: map[string][]byte{}}}
	b := s.boot
	var err error
	if b.firmware, err = pinned(o.Firmware); err != nil {
		return nil, err
	}
	if s.table, b.volume, err = bootPartition(o); err != nil {
		return nil, err
	}
	if err := s.openRoot(parttable.Root); err != nil {
		return nil, err
	}
	if err := s.identify(); err != nil {
		return nil, err
	}
	if err := s.readConfig(); err != nil {
		return nil, err
	}
	if err := s.chooseKernel(); err != nil {
		return nil, err
	}
	return s, s.readCmdline()
}

func complete(o *Options) error {
	if o.Slot < clusterctrl.MinSlot || o.Slot > clusterctrl.MaxSlot {
		return fmt.Errorf("slot %d is not one of %d to %d", o.Slot, clusterctrl.MinSlot, clusterctrl.MaxSlot)
	}
	if o.Mode == "" {
		o.Mode = Netboot
	}
	if o.Mode != Netboot && o.Mode != Ephemeral && o.Mode != Reimage {
		return fmt.Errorf("its root is %q, which is neither %s nor %s", o.Mode, Netboot, Ephemeral)
	}
	if o.Gadget != "" && o.Gadget != "ecm" && o.Gadget != "ncm" {
		return fmt.Errorf("its gadget is %q, which is neither ecm nor ncm", o.Gadget)
	}
	if !o.NBD.IsValid() {
		a := clusterctrl.RootNetwork.Addr().As4()
		a[3] = 254
		o.NBD = netip.AddrPortFrom(netip.AddrFrom4(a), nbdPort)
	}
	if o.Disk == nil || o.NodeInit == nil || o.Mode == Reimage && o.Writer == nil {
		return errors.New("it has no disk, or there is no program for its initramfs")
	}
	return nil
}

// openRoot opens the root file system, as the node's last power cut left it.
func (s *slot) openRoot(number int) error {
	p := s.table.Partition(number)
	if !p.Used() {
		return &parttable.PartitionError{Number: number, Kind: parttable.ErrMissing}
	}
	root, err := ext4.OpenLenient(p.Reader(s.o.Disk), p.Size)
	if err != nil {
		return fmt.Errorf("cannot read its root partition: %w", err)
	}
	s.root = root
	return nil
}

// identify reads who the image is for.
func (s *slot) identify() error {
	b := s.boot
	b.model, b.gadget = s.o.Model, s.o.Gadget
	data, err := s.readNode()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b.note("the image has no %s: it was not built by hatchery, and the node is what the image makes of it", nodefile.Path)
	case err != nil:
		return fmt.Errorf("cannot read %s of its root: %w", nodefile.Path, err)
	default:
		n, err := nodefile.Parse(data)
		if err != nil {
			return fmt.Errorf("%s of its root: %w (the builder writes this file: build the image again)", nodefile.Path, err)
		}
		if n.IsController() || n.Slot != s.o.Slot {
			return &WrongSlotError{Slot: s.o.Slot, Image: n.Slot, Cluster: n.Cluster}
		}
		b.node = n
		if b.gadget == "" {
			b.gadget = n.Gadget
		}
		if b.model == "" {
			b.model = n.Model
		} else if n.Model != "" && n.Model != b.model {
			b.note("the image was built for a model %s; the slot has a %s", n.Model, b.model)
		}
	}
	if b.gadget == "" {
		b.gadget = "ecm"
	}
	if b.gadget != "ecm" && b.gadget != "ncm" {
		return fmt.Errorf("%s of its root: gadget %q is neither ecm nor ncm", nodefile.Path, b.gadget)
	}
	ok := false
	if s.board, ok = boards[b.model]; !ok {
		return fmt.Errorf("a model %q does not boot over the USB link of a HAT: say in cluster.yaml that it is a zero, zero-w or zero-2-w", b.model)
	}
	return nil
}

// readNode reads node.json, which is the node's to write: not more of it than
// there can be.
func (s *slot) readNode() ([]byte, error) {
	f, err := s.root.OpenFile(nodefile.Path)
	if err != nil {
		return nil, err
	}
	if f.Size() > nodefile.MaxSize {
		return nil, &nodefile.LargeError{Size: f.Size()}
	}
	data := make([]byte, f.Size())
	if _, err := f.ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return data, nil
}

// readConfig reads config.txt and adapts it.
func (s *slot) readConfig() error {
	c, err := readConfig(s.board.filters, func(name string) ([]byte, error) { return s.boot.read(name, maxConfig) })
	var include *missingInclude
	switch {
	case errors.As(err, &include):
		return s.lacks(include.Missing)
	case errors.Is(err, fs.ErrNotExist):
		return s.lacks(Missing{"config.txt", "the settings of every Raspberry Pi OS"})
	case err != nil:
		return fmt.Errorf("cannot read config.txt: %w", err)
	}
	if s.o.forCard {
		c.arm()
	} else {
		c.adapt()
	}
	s.config = c
	s.boot.config = c.Bytes()
	s.boot.made[fold("config.txt")] = s.boot.config
	for _, line := range c.unchecked() {
		s.boot.note("config.txt: whether the files are there that a line asks for was not looked at, since it counts under a condition only: %s", line)
	}
	return nil
}

func (s *slot) lacks(m ...Missing) error {
	return &MissingError{Slot: s.o.Slot, Model: s.boot.model, Files: m}
}

// below gives a name as the firmware asks for it, prefix and all.
func (s *slot) below(prefix, name string) string {
	if strings.HasPrefix(name, "/") {
		prefix = ""
	}
	path, ok := clean(prefix + name)
	if !ok {
		return name
	}
	return path
}

// names lists what a file of ours may be asked for as: below the prefix, and
// without it where a firmware does not take it.
func (s *slot) names(name string) []string {
	return slices.Compact([]string{s.below(s.prefix, name), s.below("", name)})
}

// chooseKernel follows config.txt to the kernel and its device tree, and finds
// out what kernel it is.
func (s *slot) chooseKernel() error {
	b, c := s.boot, s.config
	name, why, ok := c.get("kernel")
	if !ok || name == "" {
		name, why = s.board.kernel, "what a model "+b.model+" starts"
		if on, line := c.number("arm_64bit"); on != 0 && s.board.kernel64 != "" {
			name, why = s.board.kernel64, line
		}
	}
	trees, treeWhy := s.board.trees, "the device tree of a model "+b.model
	upstream, _ := c.number("upstream_kernel")
	if upstream != 0 {
		trees = append([]string{s.board.upstream}, trees...)
	}
	if tree, line, ok := c.get("device_tree"); ok {
		trees, treeWhy = []string{tree}, line
		if tree == "" {
			trees = nil
		}
	}
	prefix, prefixWhy, ok := c.get("os_prefix")
	if !ok && upstream != 0 {
		prefix = "upstream/"
	}
	there := func(prefix string) bool {
		return b.has(s.below(prefix, name)) &&
			(trees == nil || slices.ContainsFunc(trees, func(tree string) bool { return b.has(s.below(prefix, tree)) }))
	}
	if prefix != "" && there(prefix) {
		s.prefix = prefix
	} else if prefix != "" && prefixWhy != "" {
		b.note("config.txt: %s is ignored by the firmware: %s or its device tree is not there", prefixWhy, s.below(prefix, name))
	}
	s.overlays = "overlays/"
	if v, _, ok := c.get("overlay_prefix"); ok {
		s.overlays = v
	}
	if s.prefix != "" && b.has(s.below(s.prefix, s.overlays+"README")) {
		s.overlays = s.below(s.prefix, s.overlays+"README")
		s.overlays = s.overlays[:len(s.overlays)-len("README")]
	}
	for i, tree := range trees {
		if tree = s.below(s.prefix, tree); b.has(tree) || i == len(trees)-1 {
			s.tree, s.treeWhy = tree, treeWhy
			break
		}
	}
	b.kernel.Name, s.kernelWhy = s.below(s.prefix, name), why
	if !b.has(b.kernel.Name) {
		// Without a kernel nothing else can be said, but for what is missing too.
		s.nameCmdline()
		return s.check()
	}
	return s.readKernel()
}

// readKernel finds the kernel's release and processor.
func (s *slot) readKernel() error {
	b := s.boot
	content, err := b.read(b.kernel.Name, maxKernel)
	if err != nil {
		return fmt.Errorf("cannot read its kernel %s: %w", b.kernel.Name, err)
	}
	k, err := s.o.Cache.kernel(content)
	if errors.Is(err, initramfs.ErrNoRelease) {
		if k.Release, err = s.guessRelease(); err == nil {
			b.note("%s does not say which kernel it is; it was taken for %s, the one that the image has modules for", b.kernel.Name, k.Release)
		}
	}
	if err != nil {
		return fmt.Errorf("its kernel %s: %w", b.kernel.Name, err)
	}
	if k.Architecture == "" {
		k.Architecture = initramfs.ARM
		if strings.HasPrefix(b.kernel.Name, "kernel8") || s.programs() == "arm64" {
			k.Architecture = initramfs.ARM64
		}
	}
	if k.Architecture == initramfs.ARM64 && s.board.kernel64 == "" {
		return fmt.Errorf("its kernel %s (%s) is for 64 bits, and a model %s has 32: take a 32-bit image, such as raspios_lite_armhf", b.kernel.Name, k.Release, b.model)
	}
	if k.Architecture == initramfs.ARM && s.programs() == "arm64" {
		return fmt.Errorf("its kernel %s (%s) is for 32 bits, and the image's programs are for 64: add arm_64bit=1 to config.txt, or take a 32-bit image", b.kernel.Name, k.Release)
	}
	b.kernel.Release, b.kernel.Architecture = k.Release, k.Architecture
	return nil
}

// guessRelease takes the one kernel that the image has modules for, of several
// the one whose release ends as the board's do.
func (s *slot) guessRelease() (string, error) {
	all, err := initramfs.Releases(s.root.IOFS())
	if err != nil {
		return "", err
	}
	suffix := s.board.suffix
	if strings.HasPrefix(s.boot.kernel.Name, "kernel8") {
		suffix = "-v8"
	}
	fitting := slices.DeleteFunc(slices.Clone(all), func(release string) bool { return !strings.HasSuffix(release, suffix) })
	switch {
	case len(all) == 1:
		return all[0], nil
	case len(fitting) == 1:
		return fitting[0], nil
	case len(all) == 0:
		return "", fmt.Errorf("%w, and the image has no modules for any", initramfs.ErrNoRelease)
	}
	return "", fmt.Errorf("%w, and the image has modules for several: %s", initramfs.ErrNoRelease, strings.Join(all[:min(len(all), 8)], ", "))
}

// programs tells what the image's programs are built for, by Debian's names;
// "" where it does not tell.
func (s *slot) programs() string {
	for _, name := range []string{"/usr/bin/dpkg", "/usr/bin/dash", "/usr/lib/systemd/systemd"} {
		f, err := s.root.OpenFile(name)
		if err != nil {
			continue
		}
		head := make([]byte, debarch.HeaderSize)
		if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
			continue
		}
		if architecture := debarch.OfProgram(head); architecture != "" {
			return architecture
		}
	}
	return ""
}

// nameCmdline follows config.txt to the command line.
func (s *slot) nameCmdline() (name string) {
	name, s.cmdlineWhy = "cmdline.txt", "the kernel's command line"
	if other, line, ok := s.config.get("cmdline"); ok && other != "" {
		name, s.cmdlineWhy = other, line
	}
	s.cmdlineName = s.below(s.prefix, name)
	return name
}

// readCmdline reads the image's command line and makes the slot's of it.
func (s *slot) readCmdline() error {
	name := s.nameCmdline()
	text, err := s.boot.read(s.cmdlineName, maxCmdline)
	if errors.Is(err, fs.ErrNotExist) {
		return s.check() // which misses it

	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", s.cmdlineName, err)
	}
	c, err := bootpart.ParseCmdline(text)
	if err != nil {
		return err
	}
	if err := s.findRoot(c); err != nil {
		return fmt.Errorf("%s: %w", s.cmdlineName, err)
	}
	words := wanted(s.o.Slot, s.o.Mode, s.boot.gadget, s.o.NBD, s.o.Words)
	if s.boot.cmdline, err = slotCmdline(c, words, s.boot.kernel.Architecture); err != nil {
		return err
	}
	for _, at := range s.names(name) {
		s.boot.made[fold(at)] = []byte(s.boot.cmdline + "\n")
	}
	for _, script := range []string{"/usr/lib/raspi-config/init_resize.sh", "/usr/lib/raspberrypi-sys-mods/firstboot"} {
		if init, _ := c.Get("init"); init == script {
			s.boot.note("%s: the image's first boot (init=%s) is for cards, and is left to the image", s.cmdlineName, script)
		}
	}
	return nil
}

// findRoot sees that root= names a partition that nodeinit finds, and opens
// that one.
func (s *slot) findRoot(c *bootpart.Cmdline) error {
	usual := "PARTUUID=" + s.table.PARTUUID(parttable.Root)
	value, ok := c.Get("root")
	key, name, _ := strings.Cut(value, "=")
	switch {
	case !ok || value == "":
		s.boot.note("%s names no root, so it was taken to be partition %d", s.cmdlineName, parttable.Root)
	case key == "UUID" && strings.EqualFold(name, s.root.UUID()), key == "LABEL" && name != "" && name == s.root.Label():
	default:
		number, err := rootPartition(value, s.table)
		if err != nil {
			return err
		}
		if number != parttable.Root {
			return s.openRoot(number)
		}
		return nil
	}
	return c.Set("root", usual)
}

// check lists the files that booting asks for, and gives a *MissingError where
// some are not there.
func (s *slot) check() error {
	b, c := s.boot, s.config
	b.files = nil
	ask := func(name, why string) {
		r, source, err := b.find(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			m := Missing{name, why}
			if !slices.ContainsFunc(s.missing, func(have Missing) bool { return have.Name == name }) {
				s.missing = append(s.missing, m)
			}
		case err != nil:
			s.missing = append(s.missing, Missing{name, why + "; " + err.Error()})
		case !slices.ContainsFunc(b.files, func(f File) bool { return fold(f.Name) == fold(name) }):
			b.files = append(b.files, File{Name: name, Size: r.Size(), Source: source, Why: why})
		}
	}
	ask("bootcode.bin", "what the boot ROM starts")
	ask("config.txt", "the settings")
	start, fixup, startWhy, fixupWhy := s.firmware()
	ask(start, startWhy)
	ask(fixup, fixupWhy)
	ask(s.cmdlineName, s.cmdlineWhy)
	ask(b.kernel.Name, s.kernelWhy)
	if b.initramfs.Size > 0 {
		ask(s.below(s.prefix, InitramfsName), "initramfs "+InitramfsName+", which hatchery adds")
	}
	if s.tree != "" {
		ask(s.tree, s.treeWhy)
	} else {
		b.note("config.txt: device_tree= is empty, so the kernel gets no device tree")
	}
	if stub, line, ok := c.get("armstub"); ok && stub != "" {
		ask(s.below("", stub), line)
	}
	s.askOverlays(ask)
	if len(s.missing) > 0 {
		return s.lacks(s.missing...)
	}
	return nil
}

// firmware is what the first stage starts.
func (s *slot) firmware() (start, fixup, startWhy, fixupWhy string) {
	c := s.config
	start, fixup = "start.elf", "fixup.dat"
	startWhy, fixupWhy = "the firmware", "the firmware's memory layout"
	memory, line, ok := c.get("gpu_mem_512") // every Zero has 512 MiB
	if !ok {
		memory, line, ok = c.get("gpu_mem")
	}
	if ok && isSmall(memory) {
		return "start_cd.elf", "fixup_cd.dat", line, line
	}
	if name, line, ok := c.get("start_file"); ok && name != "" {
		start, startWhy = s.below("", name), line
	}
	if name, line, ok := c.get("fixup_file"); ok && name != "" {
		fixup, fixupWhy = s.below("", name), line
	}
	if on, line := c.number("start_x"); on != 0 {
		return "start_x.elf", "fixup_x.dat", line, line
	}
	if on, line := c.number("start_debug"); on != 0 {
		return "start_db.elf", "fixup_db.dat", line, line
	}
	return start, fixup, startWhy, fixupWhy
}

// isSmall says whether so many MiB for the GPU are the 16 that only the cut-down
// firmware works with; it has no less.
func isSmall(mebibytes string) bool {
	n := 0
	if _, err := fmt.Sscanf(mebibytes, "%d", &n); err != nil {
		return false
	}
	return n <= 16
}

// askOverlays asks for the overlays of config.txt.
func (s *slot) askOverlays(ask func(name, why string)) {
	b := s.boot
	var names *deviceTree
	mapName := s.overlays + "overlay_map.dtb"
	if content, err := b.read(mapName, maxTree); err == nil {
		names = parseTree(content)
	}
	asked := s.config.overlays()
	ours := true
	if s.tree != "" {
		if content, err := b.read(s.tree, maxTree); err == nil {
			ours = parseTree(content).takesOverlays()
		}
	}
	if len(asked) > 0 && b.has(mapName) {
		ask(mapName, "the overlays' names")
	}
	for _, a := range asked {
		file, why := names.overlay(a.name, platform)
		if file == "" {
			b.note("config.txt: overlay %s is not loaded: %s (%s)", a.name, why, a.why)
			continue
		}
		if path, ok := clean(s.overlays + file + ".dtbo"); ok {
			if old, ok := clean(file); ok && strings.HasSuffix(file, ".dtb") {
				path = s.below(s.prefix, old) // device_tree_overlay=overlays/name-overlay.dtb
			}
			if !ours && !b.has(path) {
				b.note("config.txt: overlay %s is not there, and not missed: %s is mainline Linux's, and overlays are for Raspberry Pi's own (%s)", a.name, s.tree, a.why)
				continue
			}
			ask(path, a.why)
		} else {
			s.missing = append(s.missing, Missing{file, a.why})
		}
	}
}
