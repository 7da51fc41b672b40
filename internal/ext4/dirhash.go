package ext4

// The hashes that order an indexed directory. They are part of the disk
// format: a name is looked up in the one leaf its hash points at, so a hash
// that differs from the kernel's by a bit makes the name invisible there.
//
// What they are is documented in the kernel's "Hash Tree Directories" chapter
// (Documentation/filesystems/ext4/directory.rst) and, for the rounds
// themselves, by MD4 (RFC 1320, cut to eight steps a round) and TEA (Wheeler
// and Needham, 1994, sixteen rounds).

// hashVersion is the byte in an index root, or the superblock's default, that
// names a directory's hash.
type hashVersion uint8

// The hashes a directory can have on disk. Whether names are taken as signed
// or unsigned bytes is not written in the directory but in the superblock's
// flags, because it was an accident of the machine that made the file system.
const (
	hashLegacy  hashVersion = 0
	hashHalfMD4 hashVersion = 1
	hashTEA     hashVersion = 2
)

func (v hashVersion) known() bool { return v <= hashTEA }

// lastHash is what the kernel's readdir cursor uses for "past the end", so no
// name may have it.
const lastHash = 0xfffffffe

// nameHasher hashes names for one directory.
type nameHasher struct {
	version  hashVersion
	unsigned bool      // names are unsigned bytes
	seed     [4]uint32 // s_hash_seed
}

// hash gives the hash of a name. Bit 0 is always clear: the index uses it to
// say that a run of equal hashes goes on in the next leaf.
func (h nameHasher) hash(name string) uint32 {
	state := h.seed
	if state == [4]uint32{} {
		state = [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	}
	var hash uint32
	switch h.version {
	case hashLegacy:
		hash = h.legacy(name)
	case hashHalfMD4:
		for rest := name; len(rest) > 0; rest = rest[min(len(rest), 32):] {
			var words [8]uint32
			h.words(rest, words[:])
			halfMD4(&state, &words)
		}
		hash = state[1]
	case hashTEA:
		for rest := name; len(rest) > 0; rest = rest[min(len(rest), 16):] {
			var words [4]uint32
			h.words(rest, words[:])
			tea(&state, &words)
		}
		hash = state[0]
	}
	hash &^= 1
	if hash == lastHash {
		hash -= 2
	}
	return hash
}

// char widens one byte of a name as the machine that made the file system did.
func (h nameHasher) char(c byte) uint32 {
	if h.unsigned {
		return uint32(c)
	}
	return uint32(int32(int8(c)))
}

// legacy is the hash of the first indexed directories.
func (h nameHasher) legacy(name string) uint32 {
	last, before := uint32(0x12a3fe2d), uint32(0x37abe8f9)
	for i := 0; i < len(name); i++ {
		next := before + (last ^ h.char(name[i])*7152373)
		if next&0x80000000 != 0 {
			next -= 0x7fffffff
		}
		last, before = next, last
	}
	return last << 1
}

// words packs the start of what is left of a name into big-endian words. What
// the name does not fill holds its length, four times over; so does, above
// its bytes, the last word that it fills in part.
func (h nameHasher) words(rest string, into []uint32) {
	pad := uint32(len(rest))
	pad |= pad << 8
	pad |= pad << 16
	for w := range into {
		value := pad
		for i := 4 * w; i < 4*w+4 && i < len(rest); i++ {
			value = value<<8 + h.char(rest[i])
		}
		into[w] = value
	}
}

// halfMD4 is MD4's compression with every other step left out.
func halfMD4(state *[4]uint32, in *[8]uint32) {
	a, b, c, d := state[0], state[1], state[2], state[3]
	rotl := func(x uint32, by uint) uint32 { return x<<by | x>>(32-by) }

	choose := func(a, b, c, d, k uint32, by uint) uint32 { return rotl(a+(d^(b&(c^d)))+k, by) }
	for i := 0; i < 8; i += 4 {
		a = choose(a, b, c, d, in[i], 3)
		d = choose(d, a, b, c, in[i+1], 7)
		c = choose(c, d, a, b, in[i+2], 11)
		b = choose(b, c, d, a, in[i+3], 19)
	}
	const sqrt2, sqrt3 = 0x5a827999, 0x6ed9eba1
	majority := func(a, b, c, d, k uint32, by uint) uint32 { return rotl(a+(b&c)+((b^c)&d)+k+sqrt2, by) }
	for _, i := range [2]int{1, 0} {
		a = majority(a, b, c, d, in[i], 3)
		d = majority(d, a, b, c, in[i+2], 5)
		c = majority(c, d, a, b, in[i+4], 9)
		b = majority(b, c, d, a, in[i+6], 13)
	}
	parity := func(a, b, c, d, k uint32, by uint) uint32 { return rotl(a+(b^c^d)+k+sqrt3, by) }
	for _, i := range [2]int{3, 1} {
		a = parity(a, b, c, d, in[i], 3)
		d = parity(d, a, b, c, in[i+4], 9)
		c = parity(c, d, a, b, in[i-1], 11)
		b = parity(b, c, d, a, in[i+3], 15)
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}

// tea enciphers the first half of the state with the words as the key.
func tea(state *[4]uint32, key *[4]uint32) {
	x, y := state[0], state[1]
	var sum uint32
	for range 16 {
		sum += 0x9e3779b9
		x += (y<<4 + key[0]) ^ (y + sum) ^ (y>>5 + key[1])
		y += (x<<4 + key[2]) ^ (x + sum) ^ (x>>5 + key[3])
	}
	state[0] += x
	state[1] += y
}
