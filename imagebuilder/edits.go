package imagebuilder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"hatchery/imagebuilder/preload"
	"hatchery/imagebuilder/release"
	"hatchery/internal/bootpart"
	"hatchery/internal/ext4"
	"hatchery/internal/identity"
	"hatchery/internal/parttable"
	"hatchery/internal/spec"
	"hatchery/netboot/bootfiles"
	"hatchery/overlays"
)

// personality is what makes a target's image that target's, beside the
// cluster file.
type personality struct {
	identity  *identity.Identity
	page      *identity.Page // of the controller, nil where no browser reaches it
	versions  []byte         // the key that several controllers have in common, nil for others
	machineID string
	diskID    uint32
	epoch     time.Time
	// generations are those of all targets' present keys.
	generations map[string]int
	workloads   []overlays.Entry // what the controller is told to run
}

// edits are everything that a target's image will differ from its base in,
// computed before anything is written.
type edits struct {
	release *release.Release
	table   *parttable.Table // of the base, with the target's disk id
	rename  []release.Rename
	remove  []string
	root    []overlays.Entry // in the root partition
	boot    []overlays.Entry // in the boot partition; Path is relative to its root
	cmdline string
	grow    int64 // bytes by which the root partition, and the image, grow
	// netboot is how the slot boots without a card; nil where it has one.
	netboot *bootfiles.Options
	// card is how its card is written anew, in place; nil where it has none.
	card     *bootfiles.Options
	warnings []string
}

// computeEdits reads a base image and says what the target's image will
// differ in. Errors of the base image and of the user's files are
// [*InputError].
func computeEdits(ctx context.Context, base *foundation, c *spec.Cluster, t spec.Target, p personality, w ways) (*edits, error) {
	table, err := parttable.Read(base, base.Size())
	if err != nil {
		return nil, &InputError{fmt.Errorf("the base image: %w", err)}
	}
	root, err := openRoot(base, table)
	if err != nil {
		return nil, err
	}
	boot, err := openBoot(base, table)
	if err != nil {
		return nil, err
	}
	rel, err := detect(rootReader{root}, w.assume)
	if err != nil {
		return nil, err
	}
	if err := checkUntouched(rootReader{root}); err != nil {
		return nil, err
	}
	e := &edits{release: rel, table: table}
	if err := table.SetDiskID(p.diskID); err != nil {
		return nil, err
	}
	target := releaseTarget(c, t, p)
	target.Docker = len(base.has.Packages) > 0
	quirks, err := rel.Edits(rootReader{root}, target)
	if err != nil {
		return nil, baseError("cannot adapt "+rel.Codename, err)
	}
	if err := e.problems(quirks.Problems); err != nil {
		return nil, err
	}
	e.rename, e.remove = quirks.Rename, quirks.Remove

	programs, err := w.programEntries(t.Slot == 0, t.Slot == 0 && c.Workloads.Registry, rel.Architecture, base.boots.Beside)
	if err != nil {
		return nil, err
	}
	firmware, err := readFirmwares(c)
	if err != nil {
		return nil, err
	}
	if t.Slot == 0 {
		programs = slices.Concat(programs, firmwareEntries(firmware), p.workloads)
	} else {
		e.netboot = w.netboot(t, firmware, &base.boots)
		e.card = w.card(t, &base.boots)
	}
	entries, err := layEntries(rel, base.has, c, t, p, append(programs, quirks.Entries...))
	if err != nil {
		return nil, err
	}
	j := &judge{allow: c.CPU.Allow, architecture: rel.Architecture, models: []string{t.Model}}
	if err := j.entries(ctx, rootReader{root}, entries); err != nil {
		return nil, &InputError{err}
	}
	if err := e.split(entries); err != nil {
		return nil, err
	}
	if err := e.bootFiles(boot, quirks); err != nil {
		return nil, err
	}
	e.grow = growth(root.Usage(), e.root)
	return e, nil
}

// detect tells the base's release. One that is not known is taken for the
// assumed one, if any.
func detect(root release.Root, assume string) (*release.Release, error) {
	rel, err := release.Detect(root)
	var unknown *release.UnknownError
	if (errors.As(err, &unknown) || errors.Is(err, fs.ErrNotExist)) && assume != "" {
		rel, err = release.Assume(root, assume)
	}
	return rel, baseError("", err)
}

// checkUntouched refuses an image that hatchery made. What its target has and
// another has not (accounts and their keys, a controller's network) would stay
// in the new one.
func checkUntouched(root release.Root) error {
	data, err := root.ReadFile(nodeFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return baseError("cannot look whether hatchery made the image", err)
	}
	var node struct{ Cluster, Name string }
	whose := "for another cluster or target"
	if json.Unmarshal(data, &node) == nil && node.Name != "" {
		whose = fmt.Sprintf("as %q of the cluster %q", node.Name, node.Cluster)
	}
	return &InputError{fmt.Errorf("the base image: hatchery made this image itself, %s (it has %s): give the image that it was made from", whose, nodeFile)}
}

// checkAssumed refuses a release that hatchery does not know.
func checkAssumed(codename string) error {
	if codename == "" || slices.Contains(release.Known(), codename) {
		return nil
	}
	return &InputError{&release.AssumeError{Name: codename, Known: release.Known()}}
}

// baseError wraps an error from reading the base image, as the user's where
// the image is at fault.
func baseError(doing string, err error) error {
	if err == nil {
		return nil
	}
	faulty := baseFault(err)
	if doing != "" {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	if faulty {
		return &InputError{fmt.Errorf("the base image: %w", err)}
	}
	return err
}

func openRoot(base disk, table *parttable.Table) (*ext4.FS, error) {
	p := table.Partition(parttable.Root)
	root, err := ext4.OpenReadOnly(p.Reader(base), p.Size)
	if err != nil {
		return nil, baseError(fmt.Sprintf("cannot open the root file system (partition %d)", parttable.Root), err)
	}
	return root, nil
}

func openBoot(base disk, table *parttable.Table) (*bootpart.FS, error) {
	p := table.Partition(parttable.Boot)
	boot, err := bootpart.OpenReadOnly(base, p.Start, p.Size)
	if err != nil {
		// Nothing but the image can be at fault: what could fail otherwise,
		// reading it, has gone well for the root.
		return nil, &InputError{fmt.Errorf("the base image: cannot open the boot file system (partition %d): %w", parttable.Boot, err)}
	}
	return boot, nil
}

// problems turns what the image lacks into errors and warnings.
func (e *edits) problems(found []release.Problem) error {
	var fatal []error
	for _, p := range found {
		if p.Fatal {
			fatal = append(fatal, fmt.Errorf("the base image: %s", p))
		} else {
			e.warnings = append(e.warnings, p.String())
		}
	}
	if len(fatal) > 0 {
		return &InputError{errors.Join(fatal...)}
	}
	return nil
}

// layEntries renders the overlays: hatchery's own, over them what the release
// wants, and the user's on top.
func layEntries(rel *release.Release, docker overlays.Docker, c *spec.Cluster, t spec.Target, p personality, quirks []overlays.Entry) ([]overlays.Entry, error) {
	data := overlayData(c, t, p, rel.Architecture)
	data.Release, data.Docker = rel.Codename, docker
	ours, err := overlays.Render(data, overlays.Trees(t.Slot == 0)...)
	if err != nil {
		return nil, err
	}
	var targets []string
	for _, other := range c.Targets() {
		targets = append(targets, other.Name)
	}
	trees, err := overlays.UserTrees(c.Overlays, t.Name, targets)
	if err != nil {
		return nil, &InputError{err}
	}
	users, err := overlays.Render(data, trees...)
	if err != nil {
		return nil, &InputError{err}
	}
	entries, err := overlays.Merge(ours, quirks, users)
	if err != nil {
		return nil, &InputError{err}
	}
	return entries, nil
}

// split tells the boot partition's entries from the root's.
func (e *edits) split(entries []overlays.Entry) error {
	inFAT := map[string]overlays.Entry{} // FAT takes no notice of capitals
	for _, entry := range entries {
		name, inBoot := inBootPartition(entry.Path, e.release.BootPath)
		switch {
		case !inBoot:
			e.root = append(e.root, entry)
		case entry.Secret:
			return &InputError{fmt.Errorf("%s: a secret cannot lie in the boot partition, which has no owners: anybody with the card reads it", entry.From)}
		case !entry.Mode.IsRegular() && !entry.Mode.IsDir():
			return &InputError{fmt.Errorf("%s: the boot partition is FAT, which has no symbolic links", entry.From)}
		default:
			entry.Path = name
			if other, ok := inFAT[strings.ToUpper(name)]; ok {
				return &InputError{fmt.Errorf("%s and %s have one name in the boot partition, which takes no notice of capitals", other.From, entry.From)}
			}
			inFAT[strings.ToUpper(name)] = entry
			e.boot = append(e.boot, entry)
		}
	}
	return nil
}

// inBootPartition says what a path is called in the boot partition, if it lies
// there. In overlays that is always below /boot/firmware, so that they suit
// every release; older ones mount it at /boot.
func inBootPartition(p, bootPath string) (name string, ok bool) {
	for _, dir := range []string{"/boot/firmware", bootPath} {
		if name, ok := strings.CutPrefix(p, dir+"/"); ok {
			return name, true
		}
	}
	return "", false
}

const (
	cmdlineFile = "cmdline.txt"
	configFile  = "config.txt"
)

// bootFiles edits cmdline.txt and config.txt, the base's or, where the user
// laid one, the user's.
func (e *edits) bootFiles(boot *bootpart.FS, quirks *release.Edits) error {
	read := func(name string) ([]byte, error) {
		i := slices.IndexFunc(e.boot, func(entry overlays.Entry) bool { return strings.EqualFold(entry.Path, name) })
		if i >= 0 {
			content := e.boot[i].Content
			e.boot = slices.Delete(e.boot, i, i+1)
			return content, nil
		}
		content, err := boot.ReadFile(name)
		if err != nil {
			return nil, &InputError{fmt.Errorf("the base image: its boot partition is not Raspberry Pi OS's: %w", err)}
		}
		return content, nil
	}
	write := func(name string, content []byte) {
		e.boot = append(e.boot, overlays.Entry{Path: name, Mode: 0o755, Content: content, From: "release/" + e.release.Codename})
	}

	content, err := read(cmdlineFile)
	if err != nil {
		return err
	}
	cmdline, err := editCmdline(content, quirks.Cmdline)
	if errors.Is(err, errNoRoot) {
		return &InputError{fmt.Errorf("the base image: its %s is not Raspberry Pi OS's: %w", cmdlineFile, err)}
	}
	if err != nil {
		return &InputError{fmt.Errorf("%s: %w", cmdlineFile, err)}
	}
	e.cmdline = cmdline.String()
	write(cmdlineFile, cmdline.Bytes())

	if content, err = read(configFile); err != nil {
		return err
	}
	config, err := editConfig(content, quirks.Config)
	if err != nil {
		return &InputError{fmt.Errorf("%s: %w", configFile, err)}
	}
	write(configFile, config.Bytes())
	return nil
}

// errNoRoot is a cmdline.txt with which no system starts.
var errNoRoot = errors.New("it names no root=")

func editCmdline(content []byte, want release.Cmdline) (*bootpart.Cmdline, error) {
	cmdline, err := bootpart.ParseCmdline(content)
	if err != nil {
		return nil, err
	}
	if !cmdline.Has("root") {
		return nil, errNoRoot
	}
	cmdline.Remove(want.Removes)
	for _, w := range want.Set {
		if err := cmdline.Set(w.Key, w.Value); err != nil {
			return nil, err
		}
	}
	for _, w := range want.Add {
		if err := cmdline.Add(w); err != nil {
			return nil, err
		}
	}
	if n := len(cmdline.Bytes()); n > bootpart.CmdlineSize {
		return nil, fmt.Errorf("%d bytes long: the kernel takes at most %d; shorten boot: cmdline: in cluster.yaml", n, bootpart.CmdlineSize)
	}
	return cmdline, nil
}

func editConfig(content []byte, want []release.ConfigEdit) (*bootpart.Config, error) {
	config := bootpart.ParseConfig(content)
	for _, edit := range want {
		var err error
		switch edit.Op {
		case release.SetKey:
			err = config.Set(edit.Section, edit.Key, edit.Value)
		case release.AddLine:
			err = config.Add(edit.Section, edit.Line)
		case release.RemovePrefix:
			config.Remove(edit.Section, func(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), edit.Line) })
		}
		if err != nil {
			return nil, err
		}
	}
	return config, nil
}

// spare is the room that is left in the root file system for the first boot,
// until the node has grown it to its card.
const spare = 64 << 20

// growth is by how many bytes the root must grow to hold the entries.
func growth(u ext4.Usage, entries []overlays.Entry) int64 {
	block := int64(u.BlockSize)
	need := int64(0)
	for _, e := range entries {
		// A block for what the content leaves over, and one for its share of
		// a directory.
		need += (int64(len(e.Content))+block-1)/block*block + 2*block
	}
	free := (int64(u.FreeBlocks) - int64(u.ReservedBlocks)) * block
	if free-need >= spare {
		return 0
	}
	const step = 64 << 20 // of which the new part's own tables take little
	return (need + spare - free + step - 1) / step * step
}

// overlayData is what the overlays' templates see of a target, whose base is
// for an architecture of Debian's.
func overlayData(c *spec.Cluster, t spec.Target, p personality, architecture string) overlays.Data {
	all := c
	c = all.Around(t)
	d := overlays.Data{
		Cluster: c.Name, Domain: c.Domain,
		Name: t.Name, Slot: t.Slot, Hostname: t.Hostname, Model: t.Model, Root: t.Root, Labels: t.Labels,
		User:    overlays.User{Name: c.User.Name, Password: c.User.PasswordHash != "", SudoPassword: c.User.SudoPassword},
		Network: c.Controller.Network, Address: c.Controller.Address, Gateway: c.Controller.Gateway, DNS: c.DNS,
		Timezone: c.Timezone, Locale: c.Locale,
		MachineID: p.machineID, Epoch: p.epoch,
		Swarm:  overlays.Swarm{CertExpiry: c.Swarm.CertExpiry, Heartbeat: c.Swarm.Heartbeat, Offline: c.Swarm.Offline, AddressPool: c.Swarm.AddressPool},
		Gadget: c.Gadget, HAT: hatOf(c), Netboot: netbootOf(c), Keep: c.Keep, Registry: c.Workloads.Registry, Serve: serveOf(c),
		Identity: overlays.Identity{
			Generation: p.identity.Generation, Certificate: p.identity.Certificate, Key: p.identity.Key, CA: p.identity.CA,
			HostKey: p.identity.HostKey, HostKeyPublic: p.identity.HostKeyPublic,
		},
	}
	host := func(other spec.Target) overlays.Host {
		return overlays.Host{
			Name: other.Name, Slot: other.Slot, Hostname: other.Hostname,
			Model: other.Model, Root: other.Root, Arch: archOf(other, t, architecture), Labels: labelsOf(c, other), Generation: p.generations[other.Name],
		}
	}
	for _, other := range c.Targets() {
		d.Hosts = append(d.Hosts, host(other))
	}
	for i, one := range all.Controllers {
		controller := overlays.Controller{Name: spec.ControllerTarget(i), Hostname: one.Hostname, Address: one.Address.Addr()}
		for _, other := range all.Targets() {
			if other.Slot != 0 && other.HAT == i {
				controller.Slots = append(controller.Slots, host(other))
			}
		}
		d.Controllers = append(d.Controllers, controller)
	}
	if len(all.Controllers) > 0 {
		if first := all.FirstOf(t.HAT); first != 1 {
			d.HAT.First = first
		}
	}
	if p.page != nil {
		d.Identity.PageCertificate, d.Identity.PageKey = p.page.Certificate, p.page.Key
	}
	d.Identity.VersionsKey = p.versions
	if w := c.Controller.Wifi; w != nil {
		d.Wifi = &overlays.Wifi{SSID: w.SSID, PSK: w.PSK, Country: w.Country}
	}
	return d
}

// archOf is what another target's programs may be built for: armv6, armv7,
// arm64. Of a base other than this target's, whose architecture is known, it
// is known only where the model decides.
func archOf(other, this spec.Target, architecture string) string {
	if other.Base != this.Base {
		if architecture = ""; other.Model != "zero" && other.Model != "zero-w" {
			return ""
		}
	}
	p := preload.PlatformFor(other.Model, architecture)
	if p.Architecture == "arm" {
		return "arm" + p.Variant
	}
	return p.Architecture
}

// labelsOf are a target's labels in the swarm: the slot's own win over the
// swarm's.
func labelsOf(c *spec.Cluster, t spec.Target) map[string]string {
	labels := maps.Clone(c.Swarm.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, t.Labels)
	return labels
}

// releaseTarget is what a release's quirks depend on beside the image.
func releaseTarget(c *spec.Cluster, t spec.Target, p personality) release.Target {
	r := release.Target{
		Controller: t.Slot == 0, Model: t.Model, Bridged: c.Controller.Network == overlays.CBRIDGE,
		User: c.User.Name, AuthorizedKeys: c.User.AuthorizedKeys, PasswordHash: c.User.PasswordHash,
		Locale: c.Locale, Timezone: c.Timezone, Resolvers: len(c.DNS) > 0,
		DiskID: p.diskID, GPUMem: c.Boot.GPUMem, Cmdline: c.Boot.Cmdline, Config: c.Boot.Config,
		Epoch: p.epoch,
	}
	if w := c.Controller.Wifi; w != nil && t.Slot == 0 {
		r.WifiCountry = w.Country
	}
	return r
}

// parents are the folders above a path, outermost first.
func parents(p string) []string {
	var above []string
	for dir := path.Dir(p); dir != "/" && dir != "."; dir = path.Dir(dir) {
		above = append(above, dir)
	}
	slices.Reverse(above)
	return above
}
