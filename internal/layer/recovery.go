package layer

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
)

// A Recovery says what [OpenJournaled] found of writes that had not been
// flushed.
type Recovery int

const (
	// Clean: there were none; the layer had been closed.
	Clean Recovery = iota
	// Replayed: they are all there, by the journal.
	Replayed
	// Rebooted: the kernel is another one now, so they are gone.
	Rebooted
	// Lost: the kernel is the same, but the journal is not where it was.
	// Whoever wrote to the layer before must not go on as if all were there. It
	// is found again each time, until a write, a discard or
	// a [Layer.Flush] takes the layer as it is; Close does not.
	Lost
)

func (r Recovery) String() string {
	switch r {
	case Clean:
		return "clean"
	case Replayed:
		return "replayed"
	case Rebooted:
		return "rebooted"
	case Lost:
		return "lost"
	}
	return fmt.Sprintf("recovery %d", int(r))
}

// CreateJournaled is [Create] with a journal: whatever a write or discard
// that returned has changed is found again by [OpenJournaled] after the
// process was killed, flushed or not. It replaces a journal that is there.
func CreateJournaled(path string, parent Parent, size int64, j Journal) (*Layer, error) {
	l, err := Create(path, parent, size)
	if err != nil {
		return nil, err
	}
	if err := l.keep(j); err != nil {
		l.Abandon()
		os.Remove(path)
		return nil, fmt.Errorf("cannot create the layer %s: %w", path, err)
	}
	return l, nil
}

// OpenJournaled is [Open] with a journal. Where the layer was not closed and
// its journal is there, of this boot, the content is that of everything that
// was acknowledged; [Layer.Recovered] tells. A journal of another boot or
// another layer is replaced. One that is the layer's but spoiled is left as
// it is, and the error matches [ErrCorrupt] with the journal's name: [Open]
// opens the layer without it, as of its last flush. Errors match
// [errors.ErrUnsupported] on systems other than Linux.
func OpenJournaled(path string, parent Parent, j Journal) (*Layer, error) {
	l, err := Open(path, parent)
	if err != nil || l.Sealed() {
		return l, err
	}
	if err := l.keep(j); err != nil {
		l.file.Close()
		return nil, fmt.Errorf("cannot open the layer %s: %w", path, err)
	}
	return l, nil
}

// Recovered tells what became, when the layer was opened, of writes that had
// not been flushed, and how many changes the journal gave.
func (l *Layer) Recovered() (r Recovery, changes int) { return l.recovery, l.replayed }

// A running layer says in its file's first block which journal is its own:
// that is good as long as the page cache is, like the journal, and is not
// synced.
type running struct {
	journal, boot [16]byte
}

const (
	runningOffset = 512
	runningSize   = 40
)

var runningMagic = []byte("hatchrun")

func (l *Layer) readRunning() (r running, err error) {
	var p [runningSize]byte
	if n, err := l.file.ReadAt(p[:], runningOffset); n < len(p) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return r, err
	}
	if bytes.Equal(p[:8], runningMagic) {
		copy(r.journal[:], p[8:])
		copy(r.boot[:], p[24:])
	}
	return r, nil
}

// writeRunning says which journal holds; none, if r is zero.
func (l *Layer) writeRunning(r running) error {
	var p [runningSize]byte
	if r != (running{}) {
		copy(p[:], runningMagic)
		copy(p[8:], r.journal[:])
		copy(p[24:], r.boot[:])
	}
	_, err := l.file.WriteAt(p[:], runningOffset)
	if err == nil {
		l.running = r
	}
	return err
}

// keep gives a layer that was created or opened just now its journal, and
// lays over its map what that has.
func (l *Layer) keep(j Journal) error {
	size, boot, err := j.check()
	if err != nil {
		return err
	}
	switch {
	case l.running == running{}:
		l.recovery = Clean
	case l.running.boot != boot:
		l.recovery = Rebooted
	default:
		l.journal, err = openJournal(j.Path, func(head []byte) bool {
			return ours(head, l.running.journal, boot, l.headerSum)
		})
		if err != nil {
			return err
		}
		if l.journal != nil {
			l.recovery = Replayed
			if err := l.replay(); err != nil {
				l.journal.close()
				return err
			}
			return nil
		}
		l.recovery, l.lost = Lost, l.running
	}
	return l.startJournal(j.Path, size, boot)
}

// startJournal begins a journal: nothing was written since the state on disk.
func (l *Layer) startJournal(path string, size int64, boot [16]byte) error {
	r := running{boot: boot}
	if _, err := rand.Read(r.journal[:]); err != nil {
		return err
	}
	jn, place, err := newJournal(path, size)
	if err != nil {
		return err
	}
	jn.init(r.journal, boot, l.headerSum)
	_, err = jn.state(l.generation, l.slotSum)
	// The layer names the journal last: until then there is nothing in it.
	if err == nil {
		err = place()
	}
	if err == nil {
		err = l.writeRunning(r)
	}
	if err != nil {
		jn.close()
		return err
	}
	l.journal = jn
	return nil
}

// replay lays over the map what was written since the state on disk.
func (l *Layer) replay() error {
	fileSize, err := l.file.Size()
	if err != nil {
		return err
	}
	fileBlocks := min(fileSize/BlockSize, maxBlocks)
	j := l.journal
	corrupt := func(number uint64, what string) error {
		return &CorruptError{j.path, journalHead + int64(number%j.capacity())*journalRecord, what}
	}
	records, ok := j.since(l.generation, l.slotSum)
	if !ok {
		return corrupt(j.first, fmt.Sprintf("the journal does not know the state %d of its layer", l.generation))
	}
	blocks := l.header.blocks()
	for number, e := range records {
		block, n, place := int64(e.block), int64(e.count), int64(e.place)
		switch {
		case e.kind == recordState:
			continue // not on disk, or it would be what l is at
		case e.kind != recordMap && e.kind != recordDrop:
			return corrupt(number, "a journal's record of an unknown kind")
		case n == 0 || block+n > blocks:
			return corrupt(number, "a journal's record outside the device")
		case place != 0 && (e.kind == recordDrop || place < firstBlock || place+n > fileBlocks):
			return corrupt(number, "a journal's record of data outside the file")
		}
		for _, o := range l.setMap(block, n, e.place) {
			_ = l.eachFreed(o, func(part span, fresh bool) error {
				if !fresh {
					l.later(release{part, e.kind == recordDrop})
				}
				return nil
			})
		}
		l.table.mark(block, n)
		l.replayed++
	}
	l.space = space{limit: l.space.limit}
	if err := l.findSpace(fileBlocks); err != nil {
		return &CorruptError{j.path, journalHead, "with this journal, " + err.Error()}
	}
	return nil
}

// leaveJournal ends the use of the journal. Where everything is on the disk,
// nobody shall look for it any more; called with all locks held.
func (l *Layer) leaveJournal(done bool) {
	j := l.journal
	if j == nil {
		return
	}
	l.journal = nil
	_ = j.close()
	if !done {
		return
	}
	// In this order: a layer that is not running looks for no journal, and one
	// whose loss nobody accepted for the one that is lost. Where the first
	// fails, the journal stays right.
	if err := l.writeRunning(l.lost); err == nil {
		_ = os.Remove(j.path)
	}
}
