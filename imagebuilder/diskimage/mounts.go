package diskimage

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Mount says where a partition lies in the image's tree.
type Mount struct {
	Path      string
	Partition int
}

const (
	// mostConfig bounds the files that are read to tell what an image is.
	mostConfig = 1 << 20
	mostMounts = 32
)

// Tree gives the files as the running system has them: the root with the boot
// partition, and whatever else its fstab names and the image holds, laid over
// it. The error is ErrNoRoot where there is no operating system, unless the
// image is one file system and nothing else: then that is the tree.
func (im *Image) Tree() (Tree, error) {
	t, err := im.assemble()
	if err != nil {
		return nil, err
	}
	return t, nil
}

// BootPath is where the boot partition lies in the tree: /boot/firmware or
// /boot; "" where there is none.
func (im *Image) BootPath() string {
	im.assemble()
	for _, m := range im.mounts {
		if m.Path != "/" && bootFiles(im.volumes[m.Partition]) {
			return m.Path
		}
	}
	return ""
}

// Mounts says which partitions the tree is put together of, the root first.
func (im *Image) Mounts() []Mount {
	im.assemble()
	return slices.Clone(im.mounts)
}

func (im *Image) assemble() (*tree, error) {
	if !im.assembled {
		im.assembled = true
		im.root, im.rootErr = im.putTogether()
	}
	return im.root, im.rootErr
}

func (im *Image) putTogether() (*tree, error) {
	number, err := im.findRoot()
	if err != nil {
		return nil, err
	}
	t := newTree(im.volumes[number], number)
	im.mounts = []Mount{{"/", number}}
	laid := map[int]bool{number: true}
	for _, e := range im.fstab(t) {
		if laid[e.Partition] || im.volumes[e.Partition] == nil || len(im.mounts) >= mostMounts {
			continue
		}
		if m, ok := t.lay(im.volumes[e.Partition], e.Partition, e.Path); ok {
			laid[e.Partition] = true
			im.mounts = append(im.mounts, m)
		}
	}
	// A boot partition that fstab does not name, or by another image's name.
	for _, p := range im.partitions {
		if laid[p.Number] || !bootFiles(im.volumes[p.Number]) {
			continue
		}
		for _, dir := range []string{"/boot/firmware", "/boot"} {
			if m, ok := t.lay(im.volumes[p.Number], p.Number, dir); ok {
				im.mounts = append(im.mounts, m)
				return t, nil
			}
		}
	}
	return t, nil
}

// bootFiles says whether a volume holds what a Raspberry Pi's boot loader
// reads.
func bootFiles(v volume) bool {
	if v, ok := v.(*fatVolume); ok {
		for _, name := range []string{"/cmdline.txt", "/config.txt", "/bootcode.bin", "/start.elf", "/start4.elf"} {
			if _, err := v.lstat(name); err == nil {
				return true
			}
		}
	}
	return false
}

// findRoot says which partition holds the operating system: the one that the
// boot loader is told, else the first that looks like one.
func (im *Image) findRoot() (int, error) {
	var found []int
	for _, p := range im.partitions {
		if v := im.volumes[p.Number]; v != nil && systemFiles(newTree(v, p.Number)) {
			found = append(found, p.Number)
		}
	}
	if len(found) > 1 {
		for _, p := range im.partitions {
			if n, ok := im.rootOf(p.Number); ok && slices.Contains(found, n) {
				return n, nil
			}
		}
	}
	switch {
	case len(found) > 0:
		return found[0], nil
	case im.table.Kind == NoTable && len(im.partitions) == 1 && im.volumes[0] != nil:
		return 0, nil
	}
	return 0, fmt.Errorf("%w%s", ErrNoRoot, im.why())
}

// why says why there is no root, as far as the partitions tell.
func (im *Image) why() string {
	var all []string
	if p := im.table.Problem; p != "" {
		all = append(all, p)
	}
	for _, p := range im.partitions {
		name := fmt.Sprintf("partition %d ", p.Number)
		if im.table.Kind == NoTable {
			name = "without a partition table, it "
		}
		switch {
		case p.isExtended():
		case p.Problem != "":
			all = append(all, name+"holds "+p.content()+" ("+p.Problem+")")
		default:
			all = append(all, name+"holds "+p.content())
		}
	}
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.Join(all, ", ")
}

// systemFiles says whether a file system is the root of an operating system.
func systemFiles(t *tree) bool {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release", "/etc/fstab", "/etc/passwd"} {
		if n, err := t.Lstat(name); err == nil && !n.IsDir() {
			return true
		}
	}
	return false
}

// rootOf gives the root partition that a boot partition's cmdline.txt names.
func (im *Image) rootOf(number int) (int, bool) {
	v, ok := im.volumes[number].(*fatVolume)
	if !ok {
		return 0, false
	}
	line, err := ReadFile(newTree(v, number), "/cmdline.txt", mostConfig)
	if err != nil {
		return 0, false
	}
	for word := range strings.FieldsSeq(string(line)) {
		if device, ok := strings.CutPrefix(word, "root="); ok {
			return im.named(device)
		}
	}
	return 0, false
}

// fstab gives the partitions that an image's fstab mounts, those that others
// are mounted in first.
func (im *Image) fstab(t *tree) []Mount {
	data, err := ReadFile(t, "/etc/fstab", mostConfig)
	if err != nil {
		return nil
	}
	var list []Mount
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || !strings.HasPrefix(fields[1], "/") {
			continue
		}
		at := path.Clean(unescape(fields[1]))
		number, ok := im.named(unescape(fields[0]))
		if !ok || at == "/" {
			continue
		}
		list = append(list, Mount{at, number})
	}
	slices.SortStableFunc(list, func(a, b Mount) int { return strings.Count(a.Path, "/") - strings.Count(b.Path, "/") })
	return list
}

// unescape undoes fstab's way of writing blanks: a backslash and three octal
// digits.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// deviceName is how a disk's partitions are called: /dev/mmcblk0p2, /dev/sda2.
var deviceName = regexp.MustCompile(`^/dev/(?:mmcblk\d+p|nvme\d+n\d+p|nbd\d+p|loop\d+p|[shv]d[a-z])(\d{1,3})$`)

// named gives the partition that fstab or the kernel's root= calls so.
func (im *Image) named(device string) (int, bool) {
	if m := deviceName.FindStringSubmatch(device); m != nil {
		n, err := strconv.Atoi(m[1])
		return n, err == nil
	}
	key, value, ok := strings.Cut(device, "=")
	if by, rest, isLink := strings.Cut(strings.TrimPrefix(device, "/dev/disk/by-"), "/"); isLink && strings.HasPrefix(device, "/dev/disk/by-") {
		key, value, ok = by, rest, true
	}
	if value = strings.Trim(value, `"`); !ok || value == "" {
		return 0, false
	}
	for _, p := range im.partitions {
		var is string
		switch strings.ToUpper(key) {
		case "PARTUUID":
			is = p.UUID
		case "UUID":
			is = p.FSUUID
		case "LABEL":
			is = p.FSLabel
		case "PARTLABEL":
			is = p.Label
		}
		if is != "" && strings.EqualFold(is, value) {
			return p.Number, true
		}
	}
	return 0, false
}

// absent says whether an error means that there is no such file.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotDir) }
