package bootfiles

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"
	"unicode/utf16"

	"hatchery/internal/bootpart"
)

// A volume is the FAT32 file system of a boot partition as the firmware sees
// it: its names and where their content lies, as they were when it was read.
//
// internal/bootpart, which edits such file systems, refuses one that was not
// unmounted, or whose copies of the FAT differ. A node whose power was switched
// off leaves just that, and must boot all the same, so here, as in the
// firmware, the first copy counts and the marks do not. What is broken is
// broken file by file: its error comes when it is opened.
//
// Source: Microsoft Extensible Firmware Initiative FAT32 File System
// Specification, 1.03.
type volume struct {
	disk        io.ReaderAt
	start       int64 // of the partition on the disk
	clusterSize int64
	clusters    uint32 // numbered from 2 on
	fatStart    int64
	dataStart   int64
	files       map[string]*stored // by folded path without a leading slash, long and short names

	window   []byte // of the FAT, from windowAt on
	windowAt int64
	followed int64 // clusters, in all
}

// A stored file is one of the partition.
type stored struct {
	name string // its path, as it is written
	size int64
	at   []extent
	err  error // why it cannot be read
}

// An extent is a piece of a file.
type extent struct {
	logical, physical, length int64 // in the file, on the disk; bytes
}

// Limits of what a partition may have. A boot partition has some 400 files.
const (
	maxEntries  = 4096     // in all folders
	maxDepth    = 16       // of folders in each other
	maxPath     = 255      // bytes: what the firmware can ask for over USB
	maxNames    = 4 << 20  // bytes of all paths
	maxFolder   = 2 << 20  // bytes: FAT's own, 65,536 entries
	maxFolders  = 16 << 20 // bytes of all folders
	maxClusters = 4 << 20  // 2 GiB of the smallest
	maxExtents  = 1 << 17  // of all files
	fatWindow   = 32 << 10 // bytes of the FAT that are read at once
	maxKernel   = 48 << 20 // bytes of a kernel, which is read whole
)

func broken(structure, format string, args ...any) error {
	return &bootpart.CorruptError{Structure: structure, Detail: fmt.Sprintf(format, args...)}
}

// openVolume reads the names of a boot partition.
func openVolume(disk io.ReaderAt, start, size int64) (*volume, error) {
	v := &volume{disk: disk, start: start, files: map[string]*stored{}}
	root, err := v.geometry(size)
	if err != nil {
		return nil, err
	}
	// A path begins with a slash, and is "" where it is longer than any that is
	// asked for.
	type folder struct {
		path, short string
		first       uint32
		depth       int
	}
	entries, extents, names, folders := 0, 0, 0, 0
	seen := map[uint32]bool{root: true}
	for todo := []folder{{path: "/", short: "/", first: root}}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		raw, err := v.readFolder(at.first)
		if err != nil {
			if at.depth == 0 {
				return nil, fmt.Errorf("cannot read the boot partition's root folder: %w", err)
			}
			continue // what is in it is not there
		}
		if folders += len(raw); folders > maxFolders {
			return nil, broken("directories", "more than %d bytes of folders", maxFolders)
		}
		for _, e := range parseFolder(raw, maxEntries-entries+1) {
			if entries++; entries > maxEntries {
				return nil, broken("directories", "more than %d entries", maxEntries)
			}
			if e.folder {
				path, short := below(at.path, e.name+"/"), below(at.short, e.short+"/")
				if at.depth < maxDepth && path+short != "" && !seen[e.first] && v.holds(e.first) {
					seen[e.first] = true
					todo = append(todo, folder{path, short, e.first, at.depth + 1})
					names += len(path) + len(short)
				}
				continue
			}
			var f *stored
			for _, name := range []string{below(at.path, e.name), below(at.path, e.short), below(at.short, e.name), below(at.short, e.short)} {
				if name == "" {
					continue
				}
				if f == nil {
					f = &stored{name: name[1:], size: int64(e.size)}
					if f.at, f.err = v.chain(e.first, f.size, f.name, maxExtents-extents+1); f.err == nil {
						if extents += len(f.at); extents > maxExtents {
							return nil, broken("FAT", "more than %d pieces of files", maxExtents)
						}
					}
					names += len(f.name)
				}
				if key := fold(name[1:]); len(key) <= maxPath && v.files[key] == nil {
					v.files[key] = f
					names += len(key)
				}
			}
			if names > maxNames {
				return nil, broken("directories", "names and paths have more than %d bytes", maxNames)
			}
		}
	}
	v.window = nil
	return v, nil
}

// below gives the path of a name in a folder; "" for one that is too long.
func below(folder, name string) string {
	if folder == "" || len(folder)+len(name)-1 > maxPath {
		return ""
	}
	return folder + name
}

// fold makes names comparable, as FAT compares them.
func fold(name string) string { return strings.ToUpper(name) }

// geometry reads the boot sector. What is no FAT32 gets internal/bootpart's
// error, which says what it is.
func (v *volume) geometry(size int64) (root uint32, err error) {
	b := make([]byte, 512)
	if _, err := v.disk.ReadAt(b, v.start); err != nil {
		return 0, fmt.Errorf("cannot read the boot sector of the boot partition: %w", err)
	}
	le16, le32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	sector, perCluster := int64(le16(b[11:])), int64(b[13])
	reserved, copies, perFAT := int64(le16(b[14:])), int64(b[16]), int64(le32(b[36:]))
	total := int64(le32(b[32:]))
	powers := sector >= 512 && sector <= 4096 && sector&(sector-1) == 0 && perCluster > 0 && perCluster&(perCluster-1) == 0
	if !powers || le16(b[510:]) != 0xaa55 || le16(b[22:]) != 0 || le16(b[17:]) != 0 || perFAT == 0 || reserved == 0 || copies == 0 {
		if _, err := bootpart.OpenReadOnly(v.disk, v.start, size); err != nil {
			return 0, err
		}
		return 0, broken("boot sector", "its numbers are those of no FAT32")
	}
	if t := int64(le16(b[19:])); t != 0 {
		total = t
	}
	total = min(total, size/sector)
	first := reserved + copies*perFAT
	clusters := min((total-first)/perCluster, perFAT*sector/4-2)
	if first >= total || clusters < 1 {
		return 0, broken("boot sector", "it leaves no room for files")
	}
	if clusters > maxClusters {
		return 0, &bootpart.UnsupportedError{Feature: fmt.Sprintf("more than %d clusters", maxClusters)}
	}
	v.clusterSize, v.clusters = perCluster*sector, uint32(clusters)
	v.fatStart, v.dataStart = v.start+reserved*sector, v.start+first*sector
	if flags := le16(b[40:]); flags&0x80 != 0 { // not mirrored: one copy counts
		v.fatStart += min(int64(flags&15), copies-1) * perFAT * sector
	}
	if root = le32(b[44:]) & 0x0fffffff; !v.holds(root) {
		return 0, broken("boot sector", "the root directory starts at cluster %d of %d", root, v.clusters)
	}
	return root, nil
}

func (v *volume) holds(cluster uint32) bool { return cluster >= 2 && cluster-2 < v.clusters }

// next gives the cluster behind one in its file; 0 for none.
func (v *volume) next(cluster uint32) (uint32, error) {
	at := v.fatStart + int64(cluster)*4
	if v.window == nil || at < v.windowAt || at+4 > v.windowAt+int64(len(v.window)) {
		if v.window == nil {
			v.window = make([]byte, fatWindow)
		}
		v.window = v.window[:fatWindow]
		v.windowAt = v.fatStart + int64(cluster)*4/fatWindow*fatWindow
		n, err := v.disk.ReadAt(v.window, v.windowAt)
		if v.window = v.window[:n]; at+4 > v.windowAt+int64(n) {
			v.window = nil
			return 0, fmt.Errorf("cannot read the boot partition's FAT: %w", err)
		}
	}
	next := binary.LittleEndian.Uint32(v.window[at-v.windowAt:]) & 0x0fffffff
	if !v.holds(next) {
		if next < 0x0ffffff8 {
			return 0, broken("FAT", "cluster %d is followed by %#x of %d", cluster, next, v.clusters)
		}
		return 0, nil
	}
	return next, nil
}

// chain finds where the size bytes of a file lie, up to so many pieces.
func (v *volume) chain(first uint32, size int64, name string, pieces int) ([]extent, error) {
	if size == 0 {
		return nil, nil
	}
	var all []extent
	c := first
	for at := int64(0); at < size; at += v.clusterSize {
		if !v.holds(c) {
			return nil, broken("file /"+name, "its content ends after %d of %d bytes", at, size)
		}
		// Files that share no cluster have no more than there are, in all.
		if v.followed++; v.followed > 2*int64(v.clusters) {
			return nil, broken("file /"+name, "clusters are in use more than once")
		}
		physical, length := v.offset(c), min(v.clusterSize, size-at)
		if n := len(all); n > 0 && all[n-1].physical+all[n-1].length == physical {
			all[n-1].length += length
		} else {
			all = append(all, extent{at, physical, length})
		}
		if at+v.clusterSize >= size || len(all) >= pieces {
			break
		}
		next, err := v.next(c)
		if err != nil {
			return nil, err
		}
		c = next
	}
	return all, nil
}

func (v *volume) offset(cluster uint32) int64 {
	return v.dataStart + int64(cluster-2)*v.clusterSize
}

// readFolder gives a folder's entries, as they lie there.
func (v *volume) readFolder(first uint32) ([]byte, error) {
	var raw []byte
	for c := first; c != 0; {
		if v.followed++; v.followed > 2*int64(v.clusters) || int64(len(raw)) >= max(maxFolder, v.clusterSize) {
			return nil, broken("directory", "it does not end")
		}
		at := len(raw)
		raw = append(raw, make([]byte, v.clusterSize)...)
		if _, err := v.disk.ReadAt(raw[at:], v.offset(c)); err != nil {
			return nil, err
		}
		next, err := v.next(c)
		if err != nil {
			return nil, err
		}
		c = next
	}
	return raw, nil
}

// An entry is one of a folder.
type entry struct {
	name, short string // the long name, or the short one again
	folder      bool
	first, size uint32
}

// parseFolder reads a folder's entries: long names in slots of their own before
// the short one, tied to it by a checksum. There are at most so many.
func parseFolder(raw []byte, most int) []entry {
	const slotSize, chars = 32, 13
	le16 := binary.LittleEndian.Uint16
	var all []entry
	var long []uint16
	var room [20 * chars]uint16
	want, sum := 0, byte(0)
	for ; len(raw) >= slotSize && raw[0] != 0 && len(all) < most; raw = raw[slotSize:] {
		slot := raw[:slotSize]
		attr := slot[11] & 0x3f
		if slot[0] == 0xe5 {
			long = nil
			continue
		}
		if attr == 0x0f {
			number := int(slot[0] &^ 0x40)
			if slot[0]&0x40 != 0 && number >= 1 && number <= 20 {
				long, want, sum = room[:number*chars], number, slot[13]
			}
			if long == nil || number != want || number == 0 || slot[13] != sum {
				long = nil
				continue
			}
			want--
			for i := range chars {
				at := 1 + 2*i
				if i >= 5 {
					at += 3
				}
				if i >= 11 {
					at += 2
				}
				long[(number-1)*chars+i] = le16(slot[at:])
			}
			continue
		}
		name, check := "", byte(0)
		for _, c := range slot[:11] {
			check = check<<7 | check>>1
			check += c
		}
		if long != nil && want == 0 && check == sum {
			for i, u := range long {
				if u == 0 {
					long = long[:i]
					break
				}
			}
			name = string(utf16.Decode(long))
		}
		long = nil
		if attr&0x08 != 0 || slot[0] == '.' { // the volume's label; the folder itself and the one above
			continue
		}
		short := strings.TrimRight(string(slot[:8]), " ")
		if ext := strings.TrimRight(string(slot[8:11]), " "); ext != "" {
			short += "." + ext
		}
		if name == "" {
			name = short
			if slot[12]&0x18 == 0x18 { // both parts are written small
				name = strings.ToLower(short)
			}
		}
		if name == "" || strings.ContainsAny(name, "/\x00") {
			continue
		}
		all = append(all, entry{
			name: name, short: short, folder: attr&0x10 != 0,
			first: (uint32(le16(slot[20:]))<<16 | uint32(le16(slot[26:]))) & 0x0fffffff,
			size:  binary.LittleEndian.Uint32(slot[28:]),
		})
	}
	return all
}

// open gives a file's content, which is read when it is asked for.
func (v *volume) open(name string) (*io.SectionReader, error) {
	f := v.files[fold(name)]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	if f.err != nil {
		return nil, f.err
	}
	return io.NewSectionReader(&pieces{v.disk, f}, 0, f.size), nil
}

// pieces reads a file where it lies.
type pieces struct {
	disk io.ReaderAt
	file *stored
}

func (p *pieces) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 || off >= p.file.size {
		return 0, io.EOF
	}
	all := p.file.at
	i := sort.Search(len(all), func(i int) bool { return all[i].logical+all[i].length > off })
	for ; n < len(b) && i < len(all); i++ {
		skip := off + int64(n) - all[i].logical
		part := b[n:min(int64(len(b)), int64(n)+all[i].length-skip)]
		read, err := p.disk.ReadAt(part, all[i].physical+skip)
		if n += read; read < len(part) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, fmt.Errorf("cannot read /%s of the boot partition: %w", p.file.name, err)
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
