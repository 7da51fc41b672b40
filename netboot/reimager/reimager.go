package reimager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"hatchery/internal/reimage"
)

// A Controller says what a card is to hold, and has it.
type Controller interface {
	// Image is what the card is to hold, which is begun or not. The error is ErrNothing
	// where nothing is to be written (any more).
	Image(ctx context.Context, begun bool) (*reimage.Image, error)
	// List gives the list of pieces that an Image names. ErrChanged says that the
	// controller does not have it (any more), here and below.
	List(ctx context.Context, list string) ([]byte, error)
	// Pieces gives the bytes of pieces, one after the other.
	Pieces(ctx context.Context, list string, wanted reimage.Wanted) (io.ReadCloser, error)
	// Tell says where the node stands.
	Tell(ctx context.Context, list string, p reimage.Progress) error
}

// What a Controller's calls end with.
var (
	ErrNothing = errors.New("nothing is to be written to this card")
	ErrChanged = errors.New("the controller has another image for this card by now")
)

// Options are what Run may be told.
type Options struct {
	// Log is told what is done, a line each.
	Log func(format string, args ...any)
	// Memory is how much of the boot partition may lie in memory, in bytes; 0 for
	// DefaultMemory.
	Memory int64
	// Patience is for how long a card that was not written to waits for its
	// controller, until the system that it holds is started; 0 for DefaultPatience.
	Patience time.Duration
	// Pause is what is waited after a failed try, which are counted from 1; nil for
	// two seconds, doubled up to a minute.
	Pause func(try int) time.Duration
}

// What Run does where it is not told.
const (
	DefaultMemory   = 256 << 20
	DefaultPatience = 10 * time.Minute
)

// An UntouchedError says that the card was not written to, and will not be now: the
// system that it holds can be started.
type UntouchedError struct{ Err error }

func (e *UntouchedError) Error() string {
	return fmt.Sprintf("the card stays as it is: %v", e.Err)
}

// Unwrap gives the reason.
func (e *UntouchedError) Unwrap() error { return e.Err }

// An UnfitError says that an image cannot be written to this card.
type UnfitError struct{ Detail string }

func (e *UnfitError) Error() string { return e.Detail }

// tellEvery is how often the controller is told where the node stands, and tellTime
// how long that may take. Where it is not told, nothing depends on it.
const (
	tellEvery = 2 * time.Second
	tellTime  = 10 * time.Second
	// doneTime is for how long the controller is tried to be told that the card is
	// whole: after that it does not hear of it any more.
	doneTime = 2 * time.Minute
)

// Run writes a card anew, by the order that lies on it, which counts one attempt
// more. It returns nil when the card holds the whole image and no order any more. What
// fails is tried again, until ctx ends; an *UntouchedError says that nothing was done.
func Run(ctx context.Context, card Card, order *reimage.Order, c Controller, o Options) error {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	if o.Pause == nil {
		o.Pause = func(try int) time.Duration { return min(2*time.Second<<min(try-1, 5), time.Minute) }
	}
	w := &writer{card: card, controller: c, Options: o, operation: order.Operation}
	var err error
	if w.touched, err = Touched(card, w.operation); err != nil {
		o.Log("%v", err)
		w.touched = true // nobody can tell: nothing of it is started
	}
	counted := *order
	counted.Attempt++
	w.attempt = counted.Attempt
	if err := reimage.WriteOrder(card, &counted); err != nil {
		if !w.touched {
			return &UntouchedError{err}
		}
		o.Log("the attempt is not counted: %v", err)
	}
	for try, began := 1, time.Now(); ; try++ {
		err := w.once(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var unfit *UnfitError
		if !w.touched && (errors.Is(err, ErrNothing) || errors.As(err, &unfit) || time.Since(began) > o.Patience) {
			w.fail(ctx, err)
			return &UntouchedError{err}
		}
		if errors.Is(err, ErrNothing) {
			err = fmt.Errorf("%w, but it is half-written: have the controller write it (hatchery rebuild), or put in a card that is whole", err)
		}
		o.Log("%v", err)
		if !errors.Is(err, ErrChanged) {
			w.fail(ctx, err)
		}
		pause := time.NewTimer(o.Pause(try))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// A writer writes one card.
type writer struct {
	Options
	card       Card
	controller Controller
	operation  string
	attempt    int
	touched    bool // writing has begun, now or before

	// What is written, and how far it is: kept while the controller has the same
	// image.
	name     string // of the list
	list     *reimage.List
	late     []span // written last: where the boot partition is to be, and where it is
	moved    bool   // the boot partition does
	table    []byte // the card's first sector, as it was found
	compared bool
	pending  []int          // pieces that differ, outside of everything that is special
	written  []int          // of those, the ones that are to be read back
	special  []int          // pieces that differ, and are written with care
	content  map[int][]byte // of the special ones

	told   time.Time // when the controller was told last
	silent time.Time // until when it is not told, as it did not listen
}

// once does everything that is still to be done.
func (w *writer) once(ctx context.Context) error {
	if err := w.learn(ctx); err != nil {
		return err
	}
	if !w.compared {
		if err := w.compare(ctx); err != nil {
			return err
		}
	}
	if err := w.writeMost(ctx); err != nil {
		return err
	}
	if err := w.fetchSpecial(ctx); err != nil {
		return err
	}
	if err := w.writeEarly(); err != nil {
		return err
	}
	if err := w.writeLate(ctx); err != nil {
		return err
	}
	return w.finish(ctx)
}

// learn asks which image the card is to hold.
func (w *writer) learn(ctx context.Context) error {
	image, err := w.controller.Image(ctx, w.touched)
	if err != nil {
		return err
	}
	if err := image.Check(); err != nil {
		return fmt.Errorf("the controller's image: %w", err)
	}
	if image.List == w.name {
		return nil
	}
	raw, err := w.controller.List(ctx, image.List)
	if err != nil {
		return err
	}
	list, err := reimage.ParseList(raw, image)
	if err != nil {
		return err
	}
	if list.Size > w.card.Size() {
		return &UnfitError{fmt.Sprintf("the image has %d bytes, and the card %d: put in a larger card", list.Size, w.card.Size())}
	}
	if list.Free(int(list.BootStart/reimage.Piece)) || list.Free(0) {
		return &UnfitError{"the image has no partition table, or no boot partition"}
	}
	w.name, w.list = image.List, list
	w.compared, w.pending, w.written, w.special, w.content = false, nil, nil, nil, nil
	w.Log("the card is to hold an image of %d MiB (%s)", list.Size>>20, image.Operation)
	return w.place()
}

// place finds out which part of the card is written last.
func (w *writer) place() error {
	w.table = make([]byte, sector)
	if _, err := w.card.ReadAt(w.table, 0); err != nil {
		return readError(0, err)
	}
	next := span{w.list.BootStart, w.list.BootStart + w.list.BootSize}
	w.late, w.moved = []span{next}, false
	_, now, ok := bootEntry(w.table, w.card.Size())
	if now.to = min(now.to, w.list.Size); ok && now.from >= markPlace+sector && !now.empty() && now != next {
		w.late = append(w.late, without([]span{now}, next)...)
		w.moved = now.from != next.from
	}
	return nil
}

// first is the first sector of the boot partition that is to be.
func (w *writer) first() span { return span{w.list.BootStart, w.list.BootStart + sector} }

var tableSpan = span{0, sector}

// span is a piece's place.
func (w *writer) span(i int) span {
	at, n := w.list.Span(i)
	return span{at, at + int64(n)}
}

// plain says whether a piece may be written at any time.
func (w *writer) plain(i int) bool {
	s := []span{w.span(i)}
	return len(within(s, tableSpan)) == 0 && len(within(s, w.late...)) == 0
}

// fail tells the controller why something has failed, as far as it has said what is to be
// written.
func (w *writer) fail(ctx context.Context, reason error) {
	detail := reason.Error()
	if limit := 4 * reimage.MaxText; len(detail) > limit {
		detail = detail[:limit]
	}
	p := reimage.Progress{State: reimage.Failed, Detail: detail}
	var card *CardError
	if errors.As(reason, &card) {
		p.Fault = reimage.FaultCard
	}
	w.tell(ctx, p)
}

// say tells the controller where the node stands: at most every tellEvery while
// something goes on, and at once what is said once.
func (w *writer) say(ctx context.Context, state string, done, total int64) {
	goesOn := (state == reimage.Comparing || state == reimage.Writing || state == reimage.Verifying) && done > 0 && done < total
	if goesOn && (time.Since(w.told) < tellEvery || time.Now().Before(w.silent)) {
		return
	}
	w.tell(ctx, reimage.Progress{State: state, Done: done, Total: total})
}

func (w *writer) tell(ctx context.Context, p reimage.Progress) {
	if w.name == "" {
		return
	}
	p.Attempt = w.attempt
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	err := w.controller.Tell(ctx, w.name, p)
	w.told, w.silent = time.Now(), time.Time{}
	if err != nil {
		w.silent = time.Now().Add(30 * time.Second)
	}
}

// finish wipes the order, once the controller knows that the card is whole, or does
// not answer.
func (w *writer) finish(ctx context.Context) error {
	total := w.list.Size
	for try, began := 1, time.Now(); ; try++ {
		once, cancel := context.WithTimeout(ctx, tellTime)
		err := w.controller.Tell(once, w.name, reimage.Progress{State: reimage.Done, Done: total, Total: total, Attempt: w.attempt})
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > doneTime || errors.Is(err, ErrChanged) {
			w.Log("the card is whole, and the controller does not know: %v", err)
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(w.Pause(try), 5*time.Second)):
		}
	}
	if err := writeMark(w.card, ""); err != nil {
		return err
	}
	if err := reimage.WipeOrder(w.card); err != nil {
		return err
	}
	w.touched = false
	w.Log("the card is whole")
	return nil
}
