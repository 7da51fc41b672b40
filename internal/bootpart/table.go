package bootpart

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Values of a FAT entry, of whose 32 bits the upper four belong to nobody and
// are kept.
const (
	entryMask = 0x0fffffff
	entryBad  = 0x0ffffff7
	entryEnd  = 0x0ffffff8 // this and above end a chain
	endMark   = 0x0fffffff // the end that is written
)

// table is the FAT, in memory: for every cluster the next one of its chain.
type table struct {
	raw      []byte
	clusters uint32
	free     int
	lowest   uint32 // no cluster below this one is free
	last     uint32 // the cluster that was given out last; 0 for none
	dirty    []bool // by blocks of tableBlock bytes
}

// tableBlock is the granularity at which changes of the FAT are remembered;
// raw is a multiple of it.
const tableBlock = 512

func newTable(raw []byte, clusters uint32) *table {
	t := &table{raw: raw, clusters: clusters, lowest: clusters + 2, dirty: make([]bool, len(raw)/tableBlock)}
	// Most of a FAT is free, and comparing blocks is ten times faster than
	// looking at entries.
	var zeros [tableBlock]byte
	const perBlock = tableBlock / 4
	for c := uint32(2); c < clusters+2; {
		at := c * 4
		if c%perBlock == 0 && c+perBlock <= clusters+2 && bytes.Equal(raw[at:at+tableBlock], zeros[:]) {
			t.free += perBlock
			t.lowest = min(t.lowest, c)
			c += perBlock
			continue
		}
		if t.next(c) == 0 {
			t.free++
			t.lowest = min(t.lowest, c)
		}
		c++
	}
	return t
}

func (t *table) next(cluster uint32) uint32 {
	return binary.LittleEndian.Uint32(t.raw[cluster*4:]) & entryMask
}

func (t *table) set(cluster, value uint32) {
	at := t.raw[cluster*4:]
	before := binary.LittleEndian.Uint32(at)
	binary.LittleEndian.PutUint32(at, before&^entryMask|value)
	t.dirty[int(cluster*4/tableBlock)] = true
	switch was := before & entryMask; {
	case was == 0 && value != 0:
		t.free--
	case was != 0 && value == 0:
		t.free++
		t.lowest = min(t.lowest, cluster)
	}
}

// chain lists a chain's clusters. Open has checked every chain: each ends, and
// none shares a cluster with another.
func (t *table) chain(first uint32) []uint32 {
	var all []uint32
	for c := first; c >= 2 && c < entryBad; c = t.next(c) {
		all = append(all, c)
	}
	return all
}

// allocate takes n free clusters, in one piece where there is such a piece,
// and links them into a chain that ends. The caller has seen that n are free.
func (t *table) allocate(n int) []uint32 {
	for t.lowest < t.clusters+2 && t.next(t.lowest) != 0 {
		t.lowest++
	}
	all := t.findRun(n)
	if all == nil {
		for c := t.lowest; len(all) < n; c++ {
			if t.next(c) == 0 {
				all = append(all, c)
			}
		}
	}
	t.link(all)
	if n > 0 {
		t.last = all[n-1]
	}
	return all
}

func (t *table) findRun(n int) []uint32 {
	run := 0
	for c := t.lowest; c < t.clusters+2 && n > 0; c++ {
		if t.next(c) != 0 {
			run = 0
			continue
		}
		if run++; run == n {
			all := make([]uint32, n)
			for i := range all {
				all[i] = c - uint32(n-1-i)
			}
			return all
		}
	}
	return nil
}

func (t *table) link(all []uint32) {
	for i, c := range all {
		if i+1 < len(all) {
			t.set(c, all[i+1])
		} else {
			t.set(c, endMark)
		}
	}
}

// resize makes the chain n clusters long and gives it back. The caller has
// seen that enough are free.
func (t *table) resize(all []uint32, n int) []uint32 {
	switch {
	case n > len(all):
		more := t.allocate(n - len(all))
		if len(all) > 0 {
			t.set(all[len(all)-1], more[0])
		}
		return append(slices.Clip(all), more...)
	case n < len(all):
		for _, c := range all[n:] {
			t.set(c, 0)
		}
		if n > 0 {
			t.set(all[n-1], endMark)
		}
	}
	return all[:n]
}

// firstFree gives the first free cluster at or behind c, else one before
// it, else 0.
func (t *table) firstFree(c uint32) uint32 {
	for i := c; i < t.clusters+2; i++ {
		if t.next(i) == 0 {
			return i
		}
	}
	for i := t.lowest; i < c; i++ {
		if t.next(i) == 0 {
			return i
		}
	}
	return 0
}
