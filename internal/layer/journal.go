package layer

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"os"
	"strings"
)

// DefaultJournal is the length of a journal in bytes: room for 16,128 changes
// of the map between two flushes.
const DefaultJournal = 256 << 10

const (
	leastJournal = 8 << 10
	mostJournal  = 64 << 20

	journalVersion  = 1
	journalHead     = 4096 // bytes before the records
	journalHeadSum  = 52
	journalTails    = 64 // where the two tails are, a cache line each
	journalRecord   = 16
	journalReserved = 2 // records that only flushes may take

	kindShift   = 30
	countMask   = 1<<kindShift - 1
	recordMap   = 0 // a run of the device was mapped
	recordDrop  = 1 // likewise, to zeros, by a discard
	recordState = 2 // what precedes is part of this state
)

var (
	journalMagic = []byte("hatchjnl")

	errJournalFull = errors.New("the layer's journal has no room left")
)

// A Journal says where a layer keeps account of what was written since its
// last flush, so that it survives the process; see [CreateJournaled].
type Journal struct {
	// Path is the journal's file. It belongs on a file system in memory: it
	// need not outlive the kernel's page cache, and costs writes.
	Path string
	// Size is the length of a new journal in bytes, 8 KiB to 64 MiB; 0 means
	// [DefaultJournal]. A layer whose journal is full flushes.
	Size int64
	// Boot names the time for which the journal is good, which is as long as
	// the page cache lasts; "" means the running kernel's boot id.
	Boot string
}

// check gives the length and the boot that hold.
func (j Journal) check() (size int64, boot [16]byte, err error) {
	if size = j.Size; size == 0 {
		size = DefaultJournal
	}
	if size < leastJournal || size > mostJournal {
		return 0, boot, fmt.Errorf("impossible length of a journal: %d bytes", size)
	}
	name := j.Boot
	if name == "" {
		p, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("this system does not name its boots: %w", errors.ErrUnsupported)
		}
		if err != nil {
			return 0, boot, err
		}
		name = strings.TrimSpace(string(p))
	}
	sum := sha256.Sum256([]byte(name))
	return size, [16]byte(sum[:16]), nil
}

// journal is a journal's file in memory, shared with the kernel: what is
// stored there outlives the process at once. Its records are a ring, numbered
// from 1; the one with number s is at place s mod capacity.
type journal struct {
	path     string
	mem      []byte
	close    func() error // unmaps
	identity [16]byte
	base     uint32 // checksum of the identity
	first    uint64 // number of the first record that counts
	next     uint64 // and of the next to be written
}

// A journalEntry is what a record says.
type journalEntry struct {
	kind                uint32
	block, count, place uint32 // of a state: low half of its generation, -, its slot's checksum
}

func (j *journal) capacity() uint64 { return uint64(len(j.mem)-journalHead) / journalRecord }

// room is how many records may be written by others than flushes.
func (j *journal) room() int64 {
	return int64(j.capacity()) - int64(j.next-j.first) - journalReserved
}

// most is how many blocks one write may change, so that there can be room for
// it: each may take a record.
func (j *journal) most() int64 { return int64(j.capacity()) / 2 }

func (j *journal) at(number uint64) []byte {
	return j.mem[journalHead+number%j.capacity()*journalRecord:][:journalRecord]
}

func (j *journal) sum(number uint64, p []byte) uint32 {
	var q [20]byte
	le.PutUint64(q[:], number)
	copy(q[8:], p[:12])
	return crc32.Update(j.base, castagnoli, q[:])
}

// put writes the next record.
func (j *journal) put(e journalEntry) error {
	if j.next-j.first >= j.capacity() {
		return errJournalFull
	}
	p := j.at(j.next)
	le.PutUint32(p[0:], e.block)
	le.PutUint32(p[4:], e.count|e.kind<<kindShift)
	le.PutUint32(p[8:], e.place)
	le.PutUint32(p[12:], j.sum(j.next, p))
	j.next++
	return nil
}

// get reads a record; ok is false where there is none of that number.
func (j *journal) get(number uint64) (e journalEntry, ok bool) {
	p := j.at(number)
	if le.Uint32(p[12:]) != j.sum(number, p) {
		return e, false
	}
	count := le.Uint32(p[4:])
	return journalEntry{count >> kindShift, le.Uint32(p[0:]), count & countMask, le.Uint32(p[8:])}, true
}

// mapped notes that a run of the device lies in the file from place on.
func (j *journal) mapped(block, n int64, place uint32, punch bool) error {
	kind := uint32(recordMap)
	if punch {
		kind = recordDrop
	}
	return j.put(journalEntry{kind, uint32(block), uint32(n), place})
}

// state notes that the records before are part of a state, and gives the
// note's number.
func (j *journal) state(generation uint64, slotSum uint32) (number uint64, err error) {
	number = j.next
	return number, j.put(journalEntry{kind: recordState, block: uint32(generation), place: slotSum})
}

// forget makes the record with the given number the first that counts.
func (j *journal) forget(number uint64) {
	j.first = number
	j.putTail()
}

// retract takes back a state's record, if it is the last: the flush failed,
// and none such may fill the journal.
func (j *journal) retract(number uint64) {
	if number != 0 && number == j.next-1 {
		j.next = number
		clear(j.at(number))
	}
}

// putTail stores the first number, in the place of the older of the two.
func (j *journal) putTail() {
	p := j.tail(0)
	if a, b := j.getTail(0), j.getTail(1); a > b {
		p = j.tail(1)
	}
	le.PutUint64(p, j.first)
	le.PutUint32(p[8:], crc32.Update(j.base, castagnoli, p[:8]))
}

func (j *journal) tail(i int) []byte { return j.mem[journalTails*(1+i):][:12] }

// getTail gives 0 for a tail that is torn or was never written.
func (j *journal) getTail(i int) uint64 {
	p := j.tail(i)
	if le.Uint32(p[8:]) != crc32.Update(j.base, castagnoli, p[:8]) {
		return 0
	}
	return le.Uint64(p)
}

// encodeJournal makes an empty journal of the given length.
func (j *journal) init(identity, boot [16]byte, headerSum uint32) {
	p := j.mem
	copy(p, journalMagic)
	le.PutUint32(p[8:], journalVersion)
	le.PutUint32(p[12:], uint32(j.capacity()))
	copy(p[16:], boot[:])
	copy(p[32:], identity[:])
	le.PutUint32(p[48:], headerSum)
	le.PutUint32(p[journalHeadSum:], checksum(p[:journalHeadSum]))
	j.identity, j.base = identity, checksum(identity[:])
	j.first, j.next = 1, 1
	j.putTail()
}

// ours says whether a journal's beginning is that of the layer and boot.
func ours(p []byte, identity, boot [16]byte, headerSum uint32) bool {
	return len(p) >= journalHead && bytes.Equal(p[:8], journalMagic) &&
		le.Uint32(p[journalHeadSum:]) == checksum(p[:journalHeadSum]) &&
		le.Uint32(p[8:]) == journalVersion &&
		bytes.Equal(p[16:32], boot[:]) && bytes.Equal(p[32:48], identity[:]) &&
		le.Uint32(p[48:]) == headerSum
}

// find looks where the records begin and end.
func (j *journal) find() error {
	corrupt := func(off int64, what string) error { return &CorruptError{j.path, off, what} }
	if n := uint64(le.Uint32(j.mem[12:])); n != j.capacity() || len(j.mem)%journalRecord != 0 {
		return corrupt(12, fmt.Sprintf("a journal of %d records in a file of %d bytes", n, len(j.mem)))
	}
	copy(j.identity[:], j.mem[32:])
	j.base = checksum(j.identity[:])
	if j.first = max(j.getTail(0), j.getTail(1)); j.first == 0 || j.first > 1<<62 {
		return corrupt(journalTails, "a journal without a beginning")
	}
	end := j.first + j.capacity()
	for j.next = j.first; j.next < end; j.next++ {
		if _, ok := j.get(j.next); !ok {
			break
		}
	}
	// The last record may be torn, but none can follow it.
	for number := j.next + 1; number < end; number++ {
		if _, ok := j.get(number); ok {
			return corrupt(journalHead+int64(j.next%j.capacity())*journalRecord, "a spoiled record amid a journal")
		}
	}
	return nil
}

// since gives the numbers and contents of the records after a state's.
func (j *journal) since(generation uint64, slotSum uint32) (iter.Seq2[uint64, journalEntry], bool) {
	from := uint64(0)
	for number := j.next - 1; number >= j.first && from == 0; number-- {
		if e, _ := j.get(number); e.kind == recordState && e.block == uint32(generation) && e.place == slotSum {
			from = number
		}
	}
	return func(yield func(uint64, journalEntry) bool) {
		for number := from + 1; number < j.next; number++ {
			if e, _ := j.get(number); !yield(number, e) {
				return
			}
		}
	}, from != 0
}
