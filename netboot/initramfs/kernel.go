package initramfs

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
)

// What a kernel file is for.
const (
	ARM   = "arm"   // 32 bits
	ARM64 = "arm64" // 64 bits
)

// A Kernel is what a kernel's file says of itself.
type Kernel struct {
	Release      string // what `uname -r` says, 6.1.0-50-rpi
	Architecture string // ARM, ARM64; "" for others, and where it does not tell
}

// ErrNoRelease says that a file does not tell the release of a kernel.
var ErrNoRelease = errors.New("it tells no kernel's release: it is no Linux kernel, or compressed in a way that is not known here")

// KernelRelease finds the release in a kernel's file: ReadKernel.
func KernelRelease(kernel []byte) (string, error) {
	k, err := ReadKernel(kernel)
	return k.Release, err
}

// ReadKernel finds out a kernel's release and what processor it is for: of a
// zImage (arm, Documentation/arch/arm/booting.rst and
// arch/arm/boot/compressed/head.S), an Image (arm64,
// Documentation/arch/arm64/booting.rst), either of them compressed with gzip,
// xz, lz4 or zstd, and what wraps one of them. The release is where the
// kernel's own banner is, "Linux version …". The error is ErrNoRelease; the
// architecture may be known all the same.
func ReadKernel(kernel []byte) (Kernel, error) {
	k := Kernel{Architecture: architecture(kernel)}
	s := &search{budget: maxKernel}
	if s.look(bytes.NewReader(kernel)); s.release == "" {
		s.unpack(kernel)
	}
	k.Release = s.release
	if k.Architecture == "" {
		k.Architecture = s.architecture
	}
	if k.Release == "" {
		return k, ErrNoRelease
	}
	return k, nil
}

// architecture tells by a kernel's first bytes what it is for.
func architecture(head []byte) string {
	le32 := binary.LittleEndian.Uint32
	switch {
	case len(head) < 64:
	case string(head[0x38:0x3c]) == "ARM\x64":
		return ARM64
	case le32(head[0x24:]) == 0x016f2818:
		return ARM
	}
	return ""
}

const (
	// maxKernel bounds what is unpacked in all, in bytes. A large kernel, for
	// 64 bits, has 40 MiB.
	maxKernel = 192 << 20
	// maxTries bounds at how many places of a file unpacking is tried.
	maxTries = 48
	// maxDictionary is how far back xz may look, in bytes. The kernel's files
	// say 128 MiB (scripts/xz_wrap.sh), and are not that large. Memory is taken
	// only for what is unpacked.
	maxDictionary = 48 << 20
)

// search looks for the banner.
type search struct {
	budget                int64 // of bytes to look at
	release, architecture string
}

// banner begins the line that the kernel greets with: init/version.c,
// linux_banner. The release's end is a space.
var banner = []byte("Linux version ")

// maxRelease is the longest release, utsname(7).
const maxRelease = 64

// look reads r to its end, or until it has what it looks for.
func (s *search) look(r io.Reader) {
	const window = 64 << 10
	overlap := len(banner) + maxRelease + 2
	buf := make([]byte, 0, window+overlap)
	for first := true; s.budget > 0; first = false {
		n, err := io.ReadFull(r, buf[len(buf):min(cap(buf), len(buf)+window)])
		buf, s.budget = buf[:len(buf)+n], s.budget-int64(n)
		if first {
			s.architecture = architecture(buf)
		}
		for rest := buf; ; {
			at := bytes.Index(rest, banner)
			if at < 0 {
				break
			}
			rest = rest[at+len(banner):]
			if release, tail, ok := bytes.Cut(rest[:min(len(rest), maxRelease+2)], []byte(" ")); ok && bytes.HasPrefix(tail, []byte("(")) && validRelease(string(release)) {
				s.release = string(release)
				return
			}
		}
		if err != nil {
			return
		}
		kept := copy(buf[:cap(buf)], buf[max(0, len(buf)-overlap):])
		buf = buf[:kept]
	}
}

// A packing is how a kernel may be compressed.
type packing struct {
	magic string
	tries int // how many that look right are unpacked: each takes its memory
	open  func([]byte) (io.Reader, func(), error)
}

func nothing() {}

var packings = []packing{
	{"\x1f\x8b\x08", 16, func(b []byte) (io.Reader, func(), error) {
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, nothing, err
		}
		r.Multistream(false)
		return r, nothing, nil
	}},
	{"\xfd7zXZ\x00", 2, openXZ},
	{"\x02\x21\x4c\x18", 4, func(b []byte) (io.Reader, func(), error) { return lz4.NewReader(bytes.NewReader(b)), nothing, nil }},
	{"\x28\xb5\x2f\xfd", 4, func(b []byte) (io.Reader, func(), error) {
		z, err := newZstd(bytes.NewReader(b))
		if err != nil {
			return nil, nothing, err
		}
		return z, z.Close, nil
	}},
}

// unpack looks into everything in b that may be a compressed kernel, from its
// beginning on.
func (s *search) unpack(b []byte) {
	next := make([]int, len(packings)) // where each begins next; past the end for nowhere
	find := func(i, from int) {
		next[i] = len(b)
		if at := bytes.Index(b[from:], []byte(packings[i].magic)); at >= 0 {
			next[i] = from + at
		}
	}
	for i := range packings {
		find(i, 0)
	}
	opened := make([]int, len(packings))
	for range maxTries {
		first := 0
		for i := range next {
			if next[i] < next[first] {
				first = i
			}
		}
		at := next[first]
		if at >= len(b) || s.budget <= 0 {
			return
		}
		if opened[first] < packings[first].tries {
			if r, done, err := packings[first].open(b[at:]); err == nil {
				opened[first]++
				s.look(r)
				done()
			}
		}
		if s.release != "" {
			return
		}
		find(first, at+1)
	}
}

// openXZ opens an xz file of which only the first block counts. The kernel's
// have a filter for the processor's branches (scripts/xz_wrap.sh), which
// leaves text alone, so it is not undone here. Their checks are not compared:
// what is looked for tells whether it was right.
//
// Source: the .xz file format, version 1.2.1.
func openXZ(b []byte) (io.Reader, func(), error) {
	bad := errors.New("no xz file")
	const streamHeader = 12
	if len(b) < streamHeader+8 || crc32.ChecksumIEEE(b[6:8]) != binary.LittleEndian.Uint32(b[8:]) {
		return nil, nothing, bad
	}
	b = b[streamHeader:]
	size := (int(b[0]) + 1) * 4
	if b[0] == 0 || len(b) < size || crc32.ChecksumIEEE(b[:size-4]) != binary.LittleEndian.Uint32(b[size-4:]) {
		return nil, nothing, bad
	}
	head, flags := b[2:size-4], b[1]
	number := func() uint64 {
		n, length := binary.Uvarint(head)
		if length <= 0 {
			head = nil
			return 0
		}
		head = head[length:]
		return n
	}
	for _, bit := range []byte{0x40, 0x80} { // compressed and uncompressed size
		if flags&bit != 0 {
			number()
		}
	}
	const lzma2, arm, armThumb, arm64 = 0x21, 0x07, 0x08, 0x0a
	for range flags&3 + 1 {
		id, length := number(), number()
		if length > uint64(len(head)) {
			return nil, nothing, bad
		}
		properties := head[:length]
		head = head[length:]
		switch {
		case id == arm || id == armThumb || id == arm64:
		case id == lzma2 && length == 1 && properties[0] <= 40:
			dictionary := (2 | int64(properties[0]&1)) << (properties[0]/2 + 11)
			r, err := lzma.Reader2Config{DictCap: int(min(dictionary, maxDictionary))}.NewReader2(bytes.NewReader(b[size:]))
			return r, nothing, err
		default:
			return nil, nothing, bad
		}
	}
	return nil, nothing, bad
}

// validRelease says whether a word can be a kernel's release, and the name of a
// folder.
func validRelease(s string) bool {
	if len(s) > maxRelease || len(s) < 3 || s[0] < '0' || s[0] > '9' || !bytes.ContainsRune([]byte(s), '.') {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '-', c == '+', c == '_', c == '~':
		default:
			return false
		}
	}
	return true
}
