package nbd

// mostExtents is how many a reply to BLOCK_STATUS describes at most. A client
// asks on from where they end.
const mostExtents = 4096

// window is how much a Mapper is asked for at once, in bytes: what it answers
// is bounded by that.
const window = 64 << 20

// A run is a piece of a device that is all of one kind, as the protocol's flags
// say it.
type run struct {
	length int64
	state  uint32
}

// states describes a range of a device, from off on: whole, or as far as most
// runs go.
func states(m Mapper, off, n int64, most int) []run {
	var runs []run
	add := func(length int64, state uint32) bool {
		if length <= 0 {
			return true
		}
		if k := len(runs) - 1; k >= 0 && runs[k].state == state {
			runs[k].length += length
			return true
		}
		if len(runs) == most {
			return false
		}
		runs = append(runs, run{length, state})
		return true
	}
	for end := off + n; off < end; {
		stop := min(end, off+window)
		for _, e := range m.Extents(off, stop-off) {
			// Nothing is taken for granted: what lies before, after or over
			// another one is cut to size.
			from := max(e.Offset, off)
			to := stop
			if e.Length < stop-e.Offset {
				to = e.Offset + e.Length
			}
			if from >= to {
				continue
			}
			var state uint32
			if e.Hole {
				state |= stateHole
			}
			if e.Zero {
				state |= stateZero
			}
			if !add(from-off, 0) || !add(to-from, state) {
				return runs
			}
			off = to
		}
		if !add(stop-off, 0) {
			return runs
		}
		off = stop
	}
	return runs
}
