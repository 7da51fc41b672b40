package diskimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"hatchery/internal/bootpart"
)

// fatVolume reads FAT12, FAT16 and FAT32. internal/bootpart edits FAT32 and
// therefore refuses whatever is not in order; here one looks at what is there,
// damaged or not, and files of gigabytes are read in pieces. What bootpart
// would say is told as the partition's problem.
type fatVolume struct {
	r           io.ReaderAt
	bits        int   // 12, 16 or 32
	fat         int64 // offset of the first FAT
	fatSize     int64 // bytes
	data        int64 // offset of cluster 2
	clusterSize int64
	clusters    uint32
	rootCluster uint32 // of FAT32
	rootOffset  int64  // of FAT12 and FAT16: the root lies in a place of its own
	rootSize    int64
	label       string
	id          uint32

	pages  map[int64][]byte      // of the FAT
	lists  map[uint32][]fatEntry // of folders, by their cluster; 0 is the root
	listed int                   // entries in lists
}

// fatBootSector says whether a sector describes a FAT file system: what a
// partition table's sector has in those places does not.
func fatBootSector(b []byte) bool {
	le16, le32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	sector, perCluster := int(le16(b[11:])), int(b[13])
	return (b[0] == 0xeb || b[0] == 0xe9) && le16(b[510:]) == 0xaa55 &&
		sector >= 512 && sector <= 4096 && bits.OnesCount(uint(sector)) == 1 &&
		bits.OnesCount(uint(perCluster)) == 1 && le16(b[14:]) != 0 && b[16] >= 1 && b[16] <= 2 && b[21] >= 0xf0 &&
		(le16(b[19:]) != 0 || le32(b[32:]) != 0) && (le16(b[22:]) != 0 || le32(b[36:]) != 0)
}

// probeFAT looks into a FAT file system whose boot sector was seen.
func probeFAT(p *Partition, r io.ReaderAt, size int64, head []byte) volume {
	v, err := newFAT(r, size, head)
	if err != nil {
		p.problem("%v", err)
		return nil
	}
	p.Features = []string{fmt.Sprintf("FAT%d", v.bits)}
	p.FSUUID = fmt.Sprintf("%04X-%04X", v.id>>16, v.id&0xffff)
	p.FSLabel = v.label
	free := int64(-1)
	if v.bits == 32 {
		boot, err := bootpart.OpenReadOnly(r, 0, size)
		if err != nil {
			p.problem("%v", err)
		} else {
			u := boot.Usage()
			free = int64(u.FreeClusters)
		}
	}
	if free < 0 && v.clusters > mostCounted {
		return v
	}
	if free < 0 {
		if free, err = v.countFree(); err != nil {
			p.problem("%v", err)
			return v
		}
	}
	p.Free = free * v.clusterSize
	p.Used = int64(v.clusters)*v.clusterSize - p.Free
	return v
}

func newFAT(r io.ReaderAt, size int64, b []byte) (*fatVolume, error) {
	le16, le32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	sector, perCluster := int64(le16(b[11:])), int64(b[13])
	reserved, copies, rootEntries := int64(le16(b[14:])), int64(b[16]), int64(le16(b[17:]))
	total, perFAT := int64(le16(b[19:])), int64(le16(b[22:]))
	if total == 0 {
		total = int64(le32(b[32:]))
	}
	// As the kernel tells them apart.
	v := &fatVolume{r: r, clusterSize: sector * perCluster, pages: map[int64][]byte{}, lists: map[uint32][]fatEntry{}}
	label := b[43:54]
	v.id = le32(b[39:])
	if perFAT == 0 {
		perFAT = int64(le32(b[36:]))
		v.bits, v.rootCluster, v.id, label = 32, le32(b[44:]), le32(b[67:]), b[71:82]
		rootEntries = 0
	}
	rootSectors := (rootEntries*dirSlot + sector - 1) / sector
	data := reserved + copies*perFAT + rootSectors
	if total > size/sector {
		return nil, fmt.Errorf("its FAT file system claims %d bytes, and %d are there", total*sector, size)
	}
	if data >= total {
		return nil, errors.New("its FAT file system has no room for data")
	}
	clusters := (total - data) / perCluster
	if v.bits == 0 {
		v.bits = 16
		if clusters < 4085 {
			v.bits = 12
		}
	}
	v.fat, v.fatSize = reserved*sector, perFAT*sector
	v.clusters = uint32(min(clusters, v.fatSize*8/int64(v.bits)-2))
	v.data = data * sector
	v.rootOffset, v.rootSize = (data-rootSectors)*sector, rootEntries*dirSlot
	v.label = fatText(label)
	root, err := v.readRaw("/", fatEntry{})
	if err != nil {
		return nil, err
	}
	// The label that counts is in the root directory.
	for at := 0; at+dirSlot <= len(root) && root[at] != 0; at += dirSlot {
		if attr := root[at+11]; root[at] != 0xe5 && attr&0x3f != 0x0f && attr&0x08 != 0 {
			v.label = fatText(root[at : at+11])
			break
		}
	}
	if v.label == "NO NAME" {
		v.label = ""
	}
	return v, nil
}

const (
	dirSlot = 32
	// mostDirBytes is FAT's own bound on a directory.
	mostDirBytes = 65536 * dirSlot
	fatPage      = 4096
	mostPages    = 1024
	mostListed   = 200_000
	// mostCounted bounds the time that counting free clusters takes.
	mostCounted = 4 << 20
)

// fatText makes a padded text readable: 8.3 names are in the code page of
// whoever wrote them, of which ASCII is what all agree on.
func fatText(b []byte) string {
	text := strings.TrimRight(string(b), " \x00")
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == '\ufffd' {
			return '_'
		}
		return r
	}, text)
}

func (v *fatVolume) holds(cluster uint32) bool { return cluster >= 2 && cluster-2 < v.clusters }

// next gives the FAT's entry for a cluster, in the form of FAT32: from
// 0x0ffffff8 on it is the end of a chain.
func (v *fatVolume) next(cluster uint32) (uint32, error) {
	at := int64(cluster) * int64(v.bits) / 8
	b := [4]byte{}
	for i := range int64(v.bits+7) / 8 {
		c, err := v.fatByte(at + i)
		if err != nil {
			return 0, err
		}
		b[i] = c
	}
	e := binary.LittleEndian.Uint32(b[:])
	switch v.bits {
	case 12:
		if cluster&1 == 1 {
			e >>= 4
		}
		if e &= 0xfff; e >= 0xff7 {
			e |= 0x0ffff000
		}
	case 16:
		if e >= 0xfff7 {
			e |= 0x0fff0000
		}
	default:
		e &= 0x0fffffff
	}
	return e, nil
}

func (v *fatVolume) fatByte(at int64) (byte, error) {
	page := v.pages[at/fatPage]
	if page == nil {
		if len(v.pages) >= mostPages {
			clear(v.pages)
		}
		page = make([]byte, fatPage)
		if err := readAt(v.r, page, v.fat+at/fatPage*fatPage); err != nil {
			return 0, fmt.Errorf("cannot read the FAT: %w", err)
		}
		v.pages[at/fatPage] = page
	}
	return page[at%fatPage], nil
}

func (v *fatVolume) countFree() (free int64, err error) {
	for c := range v.clusters {
		e, err := v.next(c + 2)
		if err != nil {
			return 0, err
		}
		if e == 0 {
			free++
		}
	}
	return free, nil
}

// chain follows a file's clusters, as many as n bytes need, or a folder's, all
// of them, where n is negative. It is an error where the chain leads astray,
// ends early, or has no end.
func (v *fatVolume) chain(first uint32, n int64) ([]uint32, error) {
	size := int64(v.clusters) * v.clusterSize
	if n > size {
		return nil, fmt.Errorf("damaged FAT: a file of %d bytes in a file system of %d", n, size)
	}
	var chain []uint32
	for c := first; n < 0 || int64(len(chain))*v.clusterSize < n; {
		if n < 0 && len(chain) > 0 && c >= 0x0ffffff8 {
			break
		}
		if !v.holds(c) {
			return nil, fmt.Errorf("damaged FAT: a chain of clusters leads to %#x", c)
		}
		chain = append(chain, c)
		if n < 0 && int64(len(chain))*v.clusterSize > min(size, max(mostDirBytes, v.clusterSize)) {
			return nil, errors.New("damaged FAT: a folder is larger than it can be, or its chain goes round in circles")
		}
		var err error
		if c, err = v.next(c); err != nil {
			return nil, err
		}
	}
	return chain, nil
}

// A fatEntry is one file as its directory has it.
type fatEntry struct {
	name     string // the long one, where there is one
	short    string
	attr     byte
	cluster  uint32
	size     uint32
	modified time.Time
}

func (e fatEntry) isDir() bool { return e.attr&0x10 != 0 }

// readRaw gives the slots of a directory; that of the zero entry is the root.
func (v *fatVolume) readRaw(name string, e fatEntry) ([]byte, error) {
	cluster := e.cluster
	if e.name == "" {
		if v.bits != 32 {
			raw := make([]byte, v.rootSize)
			return raw, readAt(v.r, raw, v.rootOffset)
		}
		cluster = v.rootCluster
	}
	chain, err := v.chain(cluster, -1)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", name, err)
	}
	raw := make([]byte, int64(len(chain))*v.clusterSize)
	for i, c := range chain {
		if err := readAt(v.r, raw[int64(i)*v.clusterSize:][:v.clusterSize], v.offset(c)); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

func (v *fatVolume) offset(cluster uint32) int64 {
	return v.data + int64(cluster-2)*v.clusterSize
}

// list gives what is in a folder, and remembers it: every path leads through
// some.
func (v *fatVolume) list(name string, dir fatEntry) ([]fatEntry, error) {
	key := dir.cluster
	if dir.name == "" {
		key = 0
	}
	if entries, ok := v.lists[key]; ok && (dir.name == "" || key != 0) {
		return entries, nil
	}
	entries, err := v.readList(name, dir)
	if err != nil {
		return nil, err
	}
	if v.listed += len(entries); v.listed > mostListed {
		clear(v.lists)
		v.listed = len(entries)
	}
	v.lists[key] = entries
	return entries, nil
}

func (v *fatVolume) readList(name string, dir fatEntry) ([]fatEntry, error) {
	raw, err := v.readRaw(name, dir)
	if err != nil {
		return nil, err
	}
	var entries []fatEntry
	var long longName
	for at := 0; at+dirSlot <= len(raw) && raw[at] != 0; at += dirSlot {
		slot := raw[at : at+dirSlot]
		attr := slot[11] & 0x3f
		switch {
		case slot[0] == 0xe5:
			long = longName{}
			continue
		case attr == 0x0f:
			long.add(slot)
			continue
		}
		e := fatEntry{
			short: shortName(slot), attr: attr,
			cluster: uint32(binary.LittleEndian.Uint16(slot[26:])), size: binary.LittleEndian.Uint32(slot[28:]),
			modified: dosTime(binary.LittleEndian.Uint16(slot[24:]), binary.LittleEndian.Uint16(slot[22:])),
		}
		if v.bits == 32 {
			e.cluster |= uint32(binary.LittleEndian.Uint16(slot[20:])&0x0fff) << 16
		}
		e.name = long.take(slot)
		if attr&0x08 != 0 || e.short == "." || e.short == ".." {
			continue
		}
		if e.name == "" || !possible(e.name) {
			e.name = e.short
		}
		if possible(e.name) {
			entries = append(entries, e)
		}
	}
	slices.SortStableFunc(entries, func(a, b fatEntry) int { return strings.Compare(a.name, b.name) })
	// The first of two equal names is the one that is found.
	return slices.CompactFunc(entries, func(a, b fatEntry) bool { return a.name == b.name }), nil
}

// possible says whether a name can be one component of a path.
func possible(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

func shortName(slot []byte) string {
	b := slices.Clone(slot[:11])
	if b[0] == 0x05 {
		b[0] = 0xe5
	}
	base, ext := fatText(b[:8]), fatText(b[8:11])
	// Windows and the kernel keep an all-lower-case name as two bits.
	if slot[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if slot[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	return base
}

// longName gathers the slots of a long name, which come last part first.
type longName struct {
	units []uint16
	next  byte // the number that the next slot must have
	sum   byte
}

func (l *longName) add(slot []byte) {
	number := slot[0] & 0x3f
	if slot[0]&0x40 != 0 && number >= 1 && number <= 20 {
		*l = longName{next: number, sum: slot[13], units: nil}
	}
	if l.next == 0 || number != l.next || slot[13] != l.sum {
		*l = longName{}
		return
	}
	var part []uint16
	for _, span := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := span[0]; i < span[1]; i += 2 {
			part = append(part, binary.LittleEndian.Uint16(slot[i:]))
		}
	}
	l.units = append(part, l.units...)
	l.next--
	if l.next == 0 {
		l.next = 0xff // complete
	}
}

// take gives the name that belongs to a short entry, "" for none.
func (l *longName) take(slot []byte) string {
	name := *l
	*l = longName{}
	if name.next != 0xff {
		return ""
	}
	var sum byte
	for _, c := range slot[:11] {
		sum = sum>>1 | sum<<7 + c
	}
	if sum != name.sum {
		return ""
	}
	if end := slices.Index(name.units, 0); end >= 0 {
		name.units = name.units[:end]
	}
	return string(utf16.Decode(name.units))
}

func dosTime(date, clock uint16) time.Time {
	return time.Date(int(date>>9)+1980, time.Month(date>>5&15), int(date&31),
		int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}

// find gives the entry at a path; the zero entry is the root.
func (v *fatVolume) find(p string) (e fatEntry, real string, err error) {
	real = "/"
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if part == "" {
			continue
		}
		if real != "/" && !e.isDir() {
			return e, real, ErrNotDir
		}
		entries, err := v.list(real, e)
		if err != nil {
			return e, real, err
		}
		i := slices.IndexFunc(entries, func(e fatEntry) bool { return strings.EqualFold(e.name, part) || strings.EqualFold(e.short, part) })
		if i < 0 {
			return e, real, fs.ErrNotExist
		}
		e = entries[i]
		real = path.Join(real, e.name)
	}
	return e, real, nil
}

// node describes an entry as the kernel shows it where fstab says no more than
// "defaults".
func (v *fatVolume) node(p string, e fatEntry) Node {
	n := Node{Path: p, Mode: 0o755, Size: int64(e.size), ModTime: e.modified, Links: 1, Inode: uint64(e.cluster)}
	if e.name == "" {
		n.Mode, n.Size, n.ModTime, n.Inode = fs.ModeDir|0o755, 0, time.Unix(0, 0).UTC(), uint64(v.rootCluster)
		return n
	}
	if e.attr&0x01 != 0 {
		n.Mode = 0o555
	}
	if e.isDir() {
		n.Mode, n.Size = n.Mode|fs.ModeDir, 0
	}
	return n
}

func (v *fatVolume) lstat(p string) (Node, error) {
	e, real, err := v.find(p)
	if err != nil {
		return Node{}, err
	}
	return v.node(real, e), nil
}

func (v *fatVolume) readDir(p string) ([]Node, error) {
	dir, real, err := v.find(p)
	if err != nil {
		return nil, err
	}
	if dir.name != "" && !dir.isDir() {
		return nil, ErrNotDir
	}
	entries, err := v.list(real, dir)
	if err != nil {
		return nil, err
	}
	nodes := make([]Node, 0, len(entries))
	for _, e := range entries {
		nodes = append(nodes, v.node(path.Join(real, e.name), e))
	}
	return nodes, nil
}

func (v *fatVolume) open(p string) (file, error) {
	e, _, err := v.find(p)
	switch {
	case err != nil:
		return nil, err
	case e.name == "" || e.isDir():
		return nil, ErrIsDir
	}
	f := &fatFile{v: v, size: int64(e.size)}
	if f.chain, err = v.chain(e.cluster, f.size); err != nil {
		return nil, err
	}
	return f, nil
}

type fatFile struct {
	v     *fatVolume
	chain []uint32
	size  int64
	off   int64
}

func (f *fatFile) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (f *fatFile) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	if len(p) == 0 {
		return 0, nil
	}
	for n < len(p) && off < f.size {
		i, within := off/f.v.clusterSize, off%f.v.clusterSize
		// As many clusters at once as lie side by side.
		run := int64(1)
		for i+run < int64(len(f.chain)) && f.chain[i+run] == f.chain[i+run-1]+1 {
			run++
		}
		part := p[n:min(int64(len(p)), int64(n)+min(run*f.v.clusterSize-within, f.size-off))]
		if err := readAt(f.v.r, part, f.v.offset(f.chain[i])+within); err != nil {
			return n, err
		}
		n, off = n+len(part), off+int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *fatFile) Close() error { return nil }
