package layer

import (
	"fmt"
	"os"
)

// A state is what one flush makes durable.
type state struct {
	slot     slot
	block    []byte // the slot's
	slotSum  uint32
	note     uint64 // the journal's record of it; 0: none
	segment  []byte
	ref      segmentRef
	chain    []segmentRef
	dirty    []dirtyBucket
	obsolete []release // free once the state is durable
	replaced int64     // blocks of these that are data
}

// Flush makes everything durable that was written before it was called; it
// costs what changed since the last one. Where it fails for want of space,
// nothing is lost and it may be tried again; where a sync fails, the layer
// takes no more writes ([ErrFailed]), since no one knows what is on the disk.
func (l *Layer) Flush() error {
	l.writing.Lock()
	l.lost = running{}
	l.writing.Unlock()
	return l.flush()
}

func (l *Layer) flush() error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	s, err := l.begin()
	if err != nil {
		return err
	}
	if s == nil {
		return l.confirm()
	}
	// Writers go on from here; what they write belongs to the next state.
	fatal, err := l.commit(s)

	l.writing.Lock()
	defer l.writing.Unlock()
	if err != nil {
		l.undo(s, fatal, err)
		return fmt.Errorf("cannot flush %s: %w", l.file.Name(), err)
	}
	l.settle(s)
	return nil
}

// begin takes what changed since the last state; nil where nothing did.
func (l *Layer) begin() (*state, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed {
		return nil, os.ErrClosed
	}
	if l.sealed.Load() {
		return nil, nil
	}
	if err := l.writable(); err != nil {
		return nil, err
	}
	if l.table.changed == 0 {
		return nil, nil
	}
	if l.journal != nil && l.journal.room() < 1-journalReserved {
		return nil, errJournalFull
	}
	changed := l.table.changed
	dirty := l.table.takeDirty()
	var records []record
	kind := uint32(kindDelta)
	if len(l.chain) == 0 || len(l.chain) >= maxChain {
		kind = kindCheckpoint
	} else {
		records = l.changes(dirty)
		// Deltas longer in sum than the map, and than a few blocks, are not
		// worth keeping.
		deltas := len(records)
		for _, ref := range l.chain[1:] {
			deltas += int(ref.count)
		}
		if deltas > int(l.chain[0].count)+16*BlockSize/recordSize {
			kind = kindCheckpoint
		}
	}
	if kind == kindCheckpoint {
		records = records[:0]
		for r := range l.table.all() {
			records = append(records, r)
		}
	}
	s, err := l.prepare(kind, records, l.table.stored)
	if err != nil {
		l.unchanged(dirty)
		return nil, err
	}
	s.dirty = dirty
	if l.journal != nil {
		if s.note, err = l.journal.state(s.slot.generation, s.slotSum); err != nil {
			return nil, err // there is room: it was asked above
		}
	}
	s.obsolete = append(s.obsolete, l.pending...)
	s.replaced = l.replaced
	l.saving = changed
	l.pending = nil
	return s, nil
}

// confirm makes the state on disk durable where that is not certain: the
// layer was created, or its process was killed, after the last sync. Called
// with flushing held.
func (l *Layer) confirm() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.durable || l.sealed.Load() {
		return nil
	}
	return l.sync()
}

// surely makes certain that the state on disk is durable before a block is
// used that is free by it: the state before, which may be what the disk has,
// may use that block. A layer that was created has none before.
func (l *Layer) surely() error {
	if l.durable || !l.found || l.space.blocks == 0 {
		return nil
	}
	return l.sync()
}

// sync syncs the file; called with writing held.
func (l *Layer) sync() error {
	if err := l.file.Sync(); err != nil {
		l.failed = err
		return fmt.Errorf("cannot flush %s: %w", l.file.Name(), err)
	}
	l.durable = true
	return nil
}

// changes gives the records of dirty blocks.
func (l *Layer) changes(dirty []dirtyBucket) []record {
	var out []record
	for _, d := range dirty {
		for block, n := range d.runs() {
			for n > 0 {
				place, part, _ := l.table.find(block, n) // what is dirty is mapped
				next := record{uint32(block), uint32(part), place}
				if k := len(out) - 1; k >= 0 && continues(out[k], next) {
					out[k].count += next.count
				} else {
					out = append(out, next)
				}
				block, n = block+part, n-part
			}
		}
	}
	return out
}

// prepare finds a place for a segment and makes the slot that refers to it.
func (l *Layer) prepare(kind uint32, records []record, stored int64) (*state, error) {
	s := &state{}
	var prev segmentRef
	if kind == kindDelta {
		prev = l.chain[len(l.chain)-1]
		s.chain = append(s.chain, l.chain...)
	} else {
		for _, ref := range l.chain {
			s.obsolete = append(s.obsolete, release{span: span{uint32(ref.block), ref.blocks}})
		}
	}
	generation := l.generation + 1
	s.segment, s.ref = encodeSegment(generation, kind, prev, records)
	err := l.surely()
	if err != nil {
		return nil, err
	}
	if s.ref.block, err = l.space.takeRow(int64(s.ref.blocks)); err != nil {
		return nil, err
	}
	s.chain = append(s.chain, s.ref)
	s.slot = slot{generation: generation, segments: uint32(len(s.chain)), last: s.ref, stored: uint64(stored)}
	s.block, s.slotSum = s.slot.encode(l.headerSum)
	return s, nil
}

// commit writes a state; fatal says that an error leaves open which state is
// on the disk.
func (l *Layer) commit(s *state) (fatal bool, err error) {
	// Whole blocks, so that the file ends with one.
	segment := make([]byte, int64(s.ref.blocks)*BlockSize)
	copy(segment, s.segment)
	if err := l.write(segment, s.ref.block*BlockSize); err != nil {
		return false, err
	}
	if err := l.file.Sync(); err != nil {
		return true, err
	}
	if err := l.write(s.block, s.slot.block()*BlockSize); err != nil {
		return true, err
	}
	if err := l.file.Sync(); err != nil {
		return true, err
	}
	// A hole less is no reason to fail: the blocks are used again.
	for _, hole := range punchable(s.obsolete) {
		_ = l.file.Punch(int64(hole.start)*BlockSize, int64(hole.n)*BlockSize)
	}
	return false, nil
}

// settle makes the state that was committed the present one.
func (l *Layer) settle(s *state) {
	l.generation = s.slot.generation
	l.chain = s.chain
	l.slotSum = s.slotSum
	l.durable = true
	l.saving = 0
	l.replaced -= s.replaced
	l.space.release(spansOf(s.obsolete)...)
	if s.note != 0 {
		l.journal.forget(s.note)
	}
}

// undo takes back a state that could not be committed.
func (l *Layer) undo(s *state, fatal bool, err error) {
	if fatal {
		l.failed = err
		return
	}
	l.saving = 0
	l.unchanged(s.dirty)
	if l.journal != nil {
		l.journal.retract(s.note)
	}
	l.space.release(span{uint32(s.ref.block), s.ref.blocks})
	for _, r := range s.obsolete {
		if !l.inChain(r.span) {
			l.pending = append(l.pending, r)
		}
	}
}

// unchanged marks as dirty again what was taken for a state that did not come
// about.
func (l *Layer) unchanged(dirty []dirtyBucket) {
	for _, d := range dirty {
		for block, n := range d.runs() {
			l.table.mark(block, n)
		}
	}
}

// inChain says whether s is a segment of the present chain.
func (l *Layer) inChain(s span) bool {
	for _, ref := range l.chain {
		if ref.block == int64(s.start) {
			return true
		}
	}
	return false
}
