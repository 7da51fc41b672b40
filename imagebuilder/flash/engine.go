package flash

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hatchery/internal/bmap"
	"hatchery/internal/progress"
)

// Write puts an image onto a card. The result is there with an error too, and
// says how far it came.
//
// An error that matches [ErrUnfinished] says that the card will not boot; any
// other, that it is as it was. A context that ends is such an error as well:
// the next Write goes on where this one ended.
func Write(ctx context.Context, card Card, src Source, o Options) (*Result, error) {
	e := newEngine(card, src, o)
	return e.guard(ctx, e.write)
}

// Verify reads a card that was finished and compares it with the image. Nothing
// is written. The error is a [*DifferenceError] where it differs.
func Verify(ctx context.Context, card Card, src Source, o Options) (*Result, error) {
	e := newEngine(card, src, o)
	return e.guard(ctx, e.verify)
}

// engine is one run of Write.
type engine struct {
	card Card
	src  Source
	at   io.ReaderAt // the source, where it can be read so
	o    Options
	m    *bmap.Map

	size, block int64   // of the card; size in whole blocks
	list        []piece // ascending
	of          []int   // index in list by the range's, -1 for none
	first       []piece // ranges that have a part in the head, as in the map

	note   []byte // what the head is until all is right
	before []byte // what it was
	head   []byte // what it shall be: the image's, with the partition grown
	own    []byte // the image's, as it is
	peek   []byte // own, and as much behind it

	pool   *pool
	writes chan struct{} // places for operations of the card
	probes []probe

	mu     sync.Mutex
	res    Result
	begun  bool // something was written
	start  time.Time
	counts struct{ compared, written, verified, discarded atomic.Int64 }
	dry    bool
	differ []int // what a dry run found
}

func newEngine(card Card, src Source, o Options) *engine {
	if o.InFlight <= 0 {
		o.InFlight = defaultInFlight
	}
	if o.Patience <= 0 {
		o.Patience = defaultPatience
	}
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	e := &engine{card: card, src: src, o: o, m: src.Map(), writes: make(chan struct{}, o.InFlight), start: time.Now()}
	e.at, _ = src.(io.ReaderAt)
	e.block = int64(card.BlockSize())
	if e.block > 0 {
		e.size = card.Size() / e.block * e.block
	}
	return e
}

// guard runs work, and leaves it where the context has ended and the card does
// not answer: there is no way to call back an operation of the system.
func (e *engine) guard(ctx context.Context, work func(context.Context) error) (*Result, error) {
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		timer := time.NewTimer(e.o.Patience)
		defer timer.Stop()
		select {
		case err = <-done:
		case <-timer.C:
			err = fmt.Errorf("%w, and the card does not answer", context.Cause(ctx))
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.res
	r.Compared, r.Written = e.counts.compared.Load(), e.counts.written.Load()
	r.Verified, r.Discarded = e.counts.verified.Load(), e.counts.discarded.Load()
	r.Rewritten, r.Warnings = slices.Clone(r.Rewritten), slices.Clone(r.Warnings)
	r.Seconds.Total = time.Since(e.start).Seconds()
	if err != nil && e.begun {
		err = &unfinished{err}
	}
	return &r, err
}

func (e *engine) warn(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.res.Warnings = append(e.res.Warnings, fmt.Sprintf(format, args...))
}

// result changes the result.
func (e *engine) result(change func(r *Result)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.res)
}

// timed notes how long a phase took.
func (e *engine) timed(phase func(s *Seconds) *float64) (stop func()) {
	start := time.Now()
	return func() { e.result(func(r *Result) { *phase(&r.Seconds) += time.Since(start).Seconds() }) }
}

// named is a phase's name for people.
func (e *engine) named(phase string) string {
	if e.o.Target == "" {
		return phase
	}
	return phase + " " + e.o.Target
}

// prepare finds out what is to be done. It reads only.
func (e *engine) prepare(ctx context.Context) error {
	if e.block < 512 || e.block > headSize || e.block&(e.block-1) != 0 {
		return fmt.Errorf("cannot write to a card with blocks of %d bytes", e.block)
	}
	if err := e.pieces(); err != nil {
		return err
	}
	e.note = note{Cluster: e.o.Cluster, Target: e.o.Target, Image: Digest(e.m)}.block()
	if err := e.readFirst(ctx); err != nil {
		return err
	}
	if err := e.growth(); err != nil {
		return err
	}
	most := int64(0)
	for _, r := range e.runs(e.all(func(*piece) bool { return true })) {
		most = max(most, r.size)
	}
	e.pool = newPool(most)
	e.before = aligned(headSize)
	return e.read(e.before, 0)
}

func (e *engine) sortPieces() {
	slices.SortFunc(e.list, func(a, b piece) int { return cmp.Compare(a.off, b.off) })
	for i := range e.list {
		if index := e.list[i].index; index != zeros {
			e.of[index] = i
		}
	}
}

// all gives the indexes of pieces.
func (e *engine) all(which func(p *piece) bool) []int {
	var out []int
	for i := range e.list {
		if which(&e.list[i]) {
			out = append(out, i)
		}
	}
	return out
}

// mode decides between Full and Delta.
func (e *engine) mode(ctx context.Context) (Mode, error) {
	defer e.timed(func(s *Seconds) *float64 { return &s.Inspect })()
	before, err := inspect(ctx, e.card)
	if err != nil {
		return "", err
	}
	mode := e.o.Mode
	if mode == Auto {
		mode = Full
		if before.Kind == Hatchery || before.Kind == Unfinished {
			mode = Delta
		}
	}
	e.result(func(r *Result) { r.Before, r.Mode = before, mode })
	return mode, nil
}

func (e *engine) write(ctx context.Context) error {
	if err := e.prepare(ctx); err != nil {
		return err
	}
	mode, err := e.mode(ctx)
	if err != nil {
		return err
	}
	todo := e.all(func(*piece) bool { return true })
	var maybe map[int]bool // of todo, what has to be compared when it is there
	if mode == Delta {
		if todo, maybe, err = e.compare(ctx); err != nil {
			return err
		}
	}
	begin := sync.OnceValue(func() error { return e.begin(ctx) })
	if mode == Full || len(todo) > len(maybe) || !bytes.Equal(e.before, e.head) {
		if err := begin(); err != nil {
			return err
		}
	}
	written, err := e.copy(ctx, e.named("write"), todo, maybe, begin)
	if err != nil {
		return err
	}
	e.mu.Lock()
	begun := e.begun
	e.mu.Unlock()
	if !begun {
		e.result(func(r *Result) { r.Untouched = true })
		return e.unchanged()
	}
	if err := e.settle(ctx, written); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := e.unchanged(); err != nil {
		return err
	}
	return e.finish()
}

// unchanged asks the source whether all of it is of one time.
func (e *engine) unchanged() error {
	w, ok := e.src.(Watched)
	if !ok {
		return nil
	}
	if err := w.Unchanged(); err != nil {
		return &SourceError{0, e.m.ImageSize, err}
	}
	return nil
}

// settle sees that what was written is on the medium.
func (e *engine) settle(ctx context.Context, written []int) error {
	stop := e.timed(func(s *Seconds) *float64 { return &s.Write })
	err := e.sync()
	stop()
	if err != nil {
		return err
	}
	if !e.o.NoVerify {
		bad, failed, err := e.readBack(ctx, e.named("read back"), written)
		if err != nil {
			return err
		}
		if len(bad) > 0 {
			if err := e.again(ctx, bad, len(written), failed); err != nil {
				return err
			}
		}
	}
	return e.probeAgain(ctx)
}

// again writes what read back differently once more.
func (e *engine) again(ctx context.Context, bad []int, of int, failed error) error {
	mismatch := func(bad []int) error {
		p := &e.list[bad[0]]
		return &MismatchError{p.off, p.size, len(bad) - 1}
	}
	// A card of which a good part is wrong is not helped by a second time.
	if len(bad) > max(64, of/4) {
		return errors.Join(mismatch(bad), failed)
	}
	for _, r := range e.runs(bad) {
		e.result(func(res *Result) { res.Rewritten = append(res.Rewritten, Extent{r.off, r.size}) })
	}
	_, err := e.copy(ctx, e.named("write again"), bad, nil, func() error { return nil })
	if err != nil {
		return err
	}
	if err := e.sync(); err != nil {
		return err
	}
	bad, failed, err = e.readBack(ctx, e.named("read again"), bad)
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case len(bad) > 0:
		return mismatch(bad)
	}
	return nil
}

// begin makes the card one that does not boot, and sees that it has the size
// that it says.
func (e *engine) begin(ctx context.Context) error {
	if err := e.phase(ctx, func() error {
		e.mu.Lock()
		e.begun = true
		e.mu.Unlock()
		if bytes.Equal(e.before, e.note) {
			return nil
		}
		return e.putNote()
	}); err != nil {
		return err
	}
	if err := e.discard(ctx); err != nil {
		return err
	}
	// Behind the discard, which would take the probes away.
	return e.phase(ctx, func() error { return e.probe(ctx) })
}

// phase is a part of preparing the card.
func (e *engine) phase(ctx context.Context, work func() error) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	defer e.timed(func(s *Seconds) *float64 { return &s.Prepare })()
	task := e.o.Progress.Begin(e.named("prepare"), -1)
	defer func() { task.End(err) }()
	return work()
}

// putNote puts the note in the head's place: the block with the partition table
// first.
func (e *engine) putNote() error {
	for try := 0; ; try++ {
		if err := e.put(e.note[:e.block], 0); err != nil {
			return err
		}
		if !bytes.Equal(e.before[e.block:], e.note[e.block:]) {
			if err := e.put(e.note[e.block:], e.block); err != nil {
				return err
			}
		}
		found := aligned(headSize)
		if err := e.read(found, 0); err != nil {
			return err
		}
		if bytes.Equal(found, e.note) {
			return nil
		}
		if try > 0 {
			if bytes.Equal(found, e.before) {
				e.mu.Lock()
				e.begun = false // it takes nothing at all
				e.mu.Unlock()
			}
			return &MismatchError{0, headSize, 0}
		}
	}
}

// put writes a part of the head, and waits for it to be on the medium.
func (e *engine) put(p []byte, off int64) error {
	q := aligned(len(p)) // the head's blocks begin where no buffer may
	copy(q, p)
	if err := e.writeAt(q, off); err != nil {
		if e.isGone(err) {
			return err
		}
		if err := e.writeAt(q, off); err != nil {
			return err
		}
	}
	return e.sync()
}

// finish writes the head, now that all else is right: the block with the
// partition table is the very last.
func (e *engine) finish() (err error) {
	defer e.timed(func(s *Seconds) *float64 { return &s.Finish })()
	task := e.o.Progress.Begin(e.named("finish"), -1)
	defer func() { task.End(err) }()
	for _, part := range []Extent{{e.block, headSize - e.block}, {0, e.block}} {
		want := e.head[part.Offset : part.Offset+part.Length]
		if part.Length == 0 || part.Offset > 0 && bytes.Equal(want, e.note[part.Offset:]) {
			continue
		}
		for try := 0; ; try++ {
			if err := e.put(want, part.Offset); err != nil {
				return err
			}
			found := aligned(int(part.Length))
			if err := e.read(found, part.Offset); err != nil {
				return err
			}
			if bytes.Equal(found, want) {
				break
			}
			if try > 0 {
				_ = e.put(e.note[:e.block], 0) // as well as can be
				return &MismatchError{part.Offset, part.Length, 0}
			}
			e.result(func(r *Result) { r.Rewritten = append(r.Rewritten, part) })
		}
	}
	e.counts.written.Add(headSize)
	return nil
}

// verify is Verify's work.
func (e *engine) verify(ctx context.Context) error {
	if err := e.prepare(ctx); err != nil {
		return err
	}
	if _, err := e.mode(ctx); err != nil {
		return err
	}
	differ, maybe, err := e.compare(ctx)
	if err != nil {
		return err
	}
	e.dry = true
	unknown := slices.DeleteFunc(slices.Clone(differ), func(i int) bool { return !maybe[i] })
	differ = slices.DeleteFunc(differ, func(i int) bool { return maybe[i] })
	if len(unknown) > 0 {
		if _, err := e.copy(ctx, e.named("compare"), unknown, maybe, func() error { return nil }); err != nil {
			return err
		}
		differ = append(differ, e.differ...)
	}
	slices.Sort(differ)
	first := &DifferenceError{}
	switch head := !bytes.Equal(e.before, e.head); {
	case head:
		*first = DifferenceError{0, headSize, len(differ)}
	case len(differ) > 0:
		p := &e.list[differ[0]]
		*first = DifferenceError{p.off, p.size, len(differ) - 1}
	default:
		e.result(func(r *Result) { r.Untouched = true })
		return nil
	}
	return first
}
