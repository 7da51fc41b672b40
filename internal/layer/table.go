package layer

import (
	"iter"
	"math/bits"
	"slices"
	"sort"
)

// bucketBlocks is how many blocks of the device one bucket of a table covers
// (16 MiB). It bounds what an insertion has to move, and the 16 bits of a run.
const bucketBlocks = 4096

// A run is a part of the map within one bucket.
type run struct {
	at, n uint16 // first block within the bucket, number of blocks
	place uint32 // first block in the file; 0: zeros
}

func (r run) end() int { return int(r.at) + int(r.n) }

// from gives what r maps from the block at on.
func (r run) from(at int) run {
	cut := at - int(r.at)
	out := run{uint16(at), r.n - uint16(cut), r.place}
	if r.place != 0 {
		out.place += uint32(cut)
	}
	return out
}

// follows says whether b goes on where a ends, on the device and in the file.
func follows(a, b run) bool {
	return a.end() == int(b.at) && (a.place == 0) == (b.place == 0) && (a.place == 0 || a.place+uint32(a.n) == b.place)
}

type bucket struct {
	runs  []run // sorted, not overlapping, merged
	dirty *[bucketBlocks / 64]uint64
}

// A table maps blocks of the device to blocks of the file, and remembers
// which of them changed since the last flush. A run costs 8 bytes, and what a
// file can make a table hold is bounded by the runs it stores plus a small
// constant for each 16 MiB of the device.
type table struct {
	buckets []bucket
	stored  int64 // blocks that lie in the file
	dirty   []int // buckets with dirty blocks, unsorted
	changed int64 // dirty blocks
}

func newTable(blocks int64) *table {
	return &table{buckets: make([]bucket, (blocks+bucketBlocks-1)/bucketBlocks)}
}

// find gives the longest run from block on, at most limit blocks, that is
// mapped as one, or not at all.
func (t *table) find(block, limit int64) (place uint32, n int64, mapped bool) {
	b := &t.buckets[block/bucketBlocks]
	at := int(block % bucketBlocks)
	limit = min(limit, int64(bucketBlocks-at))
	// By hand: each read of a chain does this in each of its layers.
	i, j := 0, len(b.runs)
	for i < j {
		if m := int(uint(i+j) >> 1); b.runs[m].end() > at {
			j = m
		} else {
			i = m + 1
		}
	}
	if i == len(b.runs) {
		return 0, limit, false
	}
	r := b.runs[i]
	if int(r.at) > at {
		return 0, min(limit, int64(int(r.at)-at)), false
	}
	r = r.from(at)
	return r.place, min(limit, int64(r.n)), true
}

// A span is a run of blocks of the file.
type span struct {
	start, n uint32
}

// set maps n blocks from block on to the file's blocks from place on (0: to
// zeros). What lay in the file for them before is told to freed, piece by
// piece, with the block of the device it was for.
func (t *table) set(block, n int64, place uint32, freed func(block int64, s span)) {
	for n > 0 {
		first := block / bucketBlocks
		at := int(block % bucketBlocks)
		part := min(n, int64(bucketBlocks-at))
		t.setIn(first, run{uint16(at), uint16(part), place}, freed)
		block, n = block+part, n-part
		if place != 0 {
			place += uint32(part)
		}
	}
}

func (t *table) setIn(index int64, r run, freed func(int64, span)) {
	b := &t.buckets[index]
	at, end := int(r.at), r.end()
	i := sort.Search(len(b.runs), func(i int) bool { return b.runs[i].end() > at })
	j := i
	var repl [3]run
	k := 0
	var tail run
	for ; j < len(b.runs) && int(b.runs[j].at) < end; j++ {
		old := b.runs[j]
		if int(old.at) < at {
			repl[0] = run{old.at, uint16(at - int(old.at)), old.place}
			k = 1
			old = old.from(at)
		}
		if old.end() > end {
			tail = old.from(end)
			old.n = uint16(end - int(old.at))
		}
		if old.place != 0 {
			t.stored -= int64(old.n)
			if freed != nil {
				freed(index*bucketBlocks+int64(old.at), span{old.place, uint32(old.n)})
			}
		}
	}
	if r.place != 0 {
		t.stored += int64(r.n)
	}
	// Merge with the neighbours, be they cut off just now or untouched.
	if k == 0 && i > 0 && follows(b.runs[i-1], r) {
		i--
		repl[0], k = b.runs[i], 1
	}
	if k == 1 && follows(repl[0], r) {
		repl[0].n += r.n
	} else {
		repl[k] = r
		k++
	}
	if tail.n == 0 && j < len(b.runs) && follows(repl[k-1], b.runs[j]) {
		tail = b.runs[j]
		j++
	}
	if tail.n != 0 {
		if follows(repl[k-1], tail) {
			repl[k-1].n += tail.n
		} else {
			repl[k] = tail
			k++
		}
	}
	b.runs = slices.Replace(b.runs, i, j, repl[:k]...)
}

// all gives the map's records in order, merged across buckets.
func (t *table) all() iter.Seq[record] {
	return func(yield func(record) bool) {
		var last record
		for i := range t.buckets {
			for _, r := range t.buckets[i].runs {
				next := record{uint32(i*bucketBlocks + int(r.at)), uint32(r.n), r.place}
				if last.count != 0 && continues(last, next) {
					last.count += next.count
					continue
				}
				if last.count != 0 && !yield(last) {
					return
				}
				last = next
			}
		}
		if last.count != 0 {
			yield(last)
		}
	}
}

func continues(a, b record) bool {
	return a.block+a.count == b.block && (a.place == 0) == (b.place == 0) && (a.place == 0 || a.place+a.count == b.place)
}

// mark makes n blocks from block on dirty.
func (t *table) mark(block, n int64) {
	for n > 0 {
		index := int(block / bucketBlocks)
		b := &t.buckets[index]
		if b.dirty == nil {
			b.dirty = new([bucketBlocks / 64]uint64)
			t.dirty = append(t.dirty, index)
		}
		at := block % bucketBlocks
		part := min(n, 64-at%64)
		mask := (^uint64(0) >> (64 - part)) << (at % 64)
		w := &b.dirty[at/64]
		t.changed += int64(bits.OnesCount64(mask &^ *w))
		*w |= mask
		block, n = block+part, n-part
	}
}

// isDirty says whether block changed since the last flush, and for how many
// of the limit blocks from it on the same is true.
func (t *table) isDirty(block, limit int64) (dirty bool, n int64) {
	for n < limit {
		b := &t.buckets[(block+n)/bucketBlocks]
		at := (block + n) % bucketBlocks
		if b.dirty == nil {
			if dirty {
				return dirty, n
			}
			n += bucketBlocks - at
			continue
		}
		w := b.dirty[at/64] >> (at % 64)
		if n == 0 {
			dirty = w&1 != 0
		}
		if dirty {
			w = ^w
		}
		same := int64(bits.TrailingZeros64(w))
		if left := 64 - at%64; same < left {
			return dirty, min(n+same, limit)
		} else {
			n += left
		}
	}
	return dirty, min(n, limit)
}

// takeDirty forgets what is dirty and gives it, to be flushed or marked again.
func (t *table) takeDirty() []dirtyBucket {
	slices.Sort(t.dirty)
	out := make([]dirtyBucket, len(t.dirty))
	for i, index := range t.dirty {
		out[i] = dirtyBucket{index, t.buckets[index].dirty}
		t.buckets[index].dirty = nil
	}
	t.dirty, t.changed = nil, 0
	return out
}

type dirtyBucket struct {
	index int
	bits  *[bucketBlocks / 64]uint64
}

// runs gives the runs of dirty blocks.
func (d dirtyBucket) runs() iter.Seq2[int64, int64] {
	return func(yield func(block, n int64) bool) {
		for at := 0; at < bucketBlocks; {
			w := d.bits[at/64] >> (at % 64)
			if w == 0 {
				at = (at/64 + 1) * 64
				continue
			}
			at += bits.TrailingZeros64(w)
			end := at
			for end < bucketBlocks {
				same := bits.TrailingZeros64(^(d.bits[end/64] >> (end % 64)))
				left := 64 - end%64
				if same < left {
					end += same
					break
				}
				end += left
			}
			if !yield(int64(d.index)*bucketBlocks+int64(at), int64(end-at)) {
				return
			}
			at = end
		}
	}
}
