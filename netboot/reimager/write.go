package reimager

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"hatchery/internal/reimage"
)

// rounds is how often a piece is written that the card does not keep.
const rounds = 3

// syncEvery is after how many pieces what was written is brought to the medium.
const syncEvery = 64

// askPieces is how many pieces are fetched at once: 32 MiB.
const askPieces = 256

// compare finds the pieces in which the card differs from the list.
func (w *writer) compare(ctx context.Context) error {
	var total, done int64
	for i := range w.list.Len() {
		if !w.list.Free(i) {
			total += reimage.Piece
		}
	}
	w.pending, w.written, w.special = nil, nil, nil
	w.say(ctx, reimage.Comparing, 0, total)
	buffer := make([]byte, reimage.Piece)
	for i := range w.list.Len() {
		if w.list.Free(i) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		equal, err := w.holds(i, buffer)
		if err != nil {
			return err
		}
		done += reimage.Piece
		w.say(ctx, reimage.Comparing, done, total)
		switch {
		case equal:
		case w.plain(i):
			w.pending = append(w.pending, i)
		default:
			w.special = append(w.special, i)
		}
	}
	// What is zeroed for a while has to be known, to be put back.
	for _, s := range w.seals() {
		if i := int(s.from / reimage.Piece); !w.list.Free(i) && !contains(w.special, i) {
			w.special = append(w.special, i)
		}
	}
	if need := int64(len(w.special)) * reimage.Piece; need > w.Memory {
		return &UnfitError{fmt.Sprintf("%d MiB of the boot partition differ, and %d fit into this node's memory: write its card with hatchery flash", need>>20, w.Memory>>20)}
	}
	w.compared, w.content = true, map[int][]byte{}
	w.Log("%d MiB of %d differ", int64(len(w.pending)+len(w.special))*reimage.Piece>>20, total>>20)
	return nil
}

func contains(all []int, i int) bool {
	for _, have := range all {
		if have == i {
			return true
		}
	}
	return false
}

// holds says whether the card holds a piece as the list has it.
func (w *writer) holds(i int, buffer []byte) (bool, error) {
	at, n := w.list.Span(i)
	if _, err := w.card.ReadAt(buffer[:n], at); err != nil {
		return false, readError(at, err)
	}
	return sha256.Sum256(buffer[:n]) == w.list.Sum(i), nil
}

// touch marks the card before anything of its system is written over.
func (w *writer) touch() error {
	if w.touched {
		return nil
	}
	if err := writeMark(w.card, w.operation); err != nil {
		return err
	}
	w.touched = true
	return nil
}

// writeMost fetches and writes what is neither of the boot partition nor special
// otherwise, and reads it back.
func (w *writer) writeMost(ctx context.Context) error {
	for round := 0; len(w.pending)+len(w.written) > 0; round++ {
		if round == rounds {
			return errLoses
		}
		if len(w.pending) > 0 {
			if err := w.touch(); err != nil {
				return err
			}
		}
		if err := w.writePending(ctx); err != nil {
			return err
		}
		if err := w.verify(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) writePending(ctx context.Context) error {
	have := int64(len(w.written))
	total := (have + int64(len(w.pending))) * reimage.Piece
	done := have * reimage.Piece
	if len(w.pending) > 0 {
		w.say(ctx, reimage.Writing, done, total)
	}
	unsynced := 0
	for len(w.pending) > 0 {
		err := w.fetch(ctx, w.pending[:min(len(w.pending), askPieces)], func(i int, content []byte) error {
			at, _ := w.list.Span(i)
			if _, err := w.card.WriteAt(content, at); err != nil {
				return writeError(at, err)
			}
			w.pending, w.written = w.pending[1:], append(w.written, i)
			done += reimage.Piece
			if unsynced++; unsynced >= syncEvery {
				unsynced = 0
				if err := w.card.Sync(); err != nil {
					return syncError(err)
				}
			}
			w.say(ctx, reimage.Writing, done, total)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := w.card.Sync(); err != nil {
		return syncError(err)
	}
	return nil
}

// verify reads back what was written. What is not there is pending again.
func (w *writer) verify(ctx context.Context) error {
	if len(w.written) == 0 {
		return nil
	}
	if err := w.card.Forget(); err != nil {
		return forgetError(err)
	}
	total := int64(len(w.written)) * reimage.Piece
	w.say(ctx, reimage.Verifying, 0, total)
	buffer := make([]byte, reimage.Piece)
	var done int64
	var lost []int
	for _, i := range w.written {
		if err := ctx.Err(); err != nil {
			return err
		}
		equal, err := w.holds(i, buffer)
		if err != nil {
			return err
		}
		if !equal {
			lost = append(lost, i)
		}
		done += reimage.Piece
		w.say(ctx, reimage.Verifying, done, total)
	}
	w.written, w.pending = nil, lost
	if len(lost) > 0 {
		w.Log("the card did not keep %d of the pieces that were written: they are written again", len(lost))
	}
	return nil
}

// fetch gets pieces, and gives each to use, in their order, once its digest is right.
// The content is used no more when use returns. While one is used, others come.
func (w *writer) fetch(ctx context.Context, pieces []int, use func(i int, content []byte) error) error {
	var wanted reimage.Wanted
	for _, i := range pieces {
		if n := len(wanted.Runs); n > 0 && wanted.Runs[n-1][0]+wanted.Runs[n-1][1] == int64(i) {
			wanted.Runs[n-1][1]++
			continue
		}
		wanted.Runs = append(wanted.Runs, [2]int64{int64(i), 1})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := w.controller.Pieces(ctx, w.name, wanted)
	if err != nil {
		return err
	}
	const ahead = 8
	free := make(chan []byte, ahead)
	for range ahead {
		free <- make([]byte, reimage.Piece)
	}
	type came struct {
		i       int
		content []byte
		err     error
	}
	arrived := make(chan came, ahead)
	go func() {
		defer close(arrived)
		defer body.Close()
		for _, i := range pieces {
			var buffer []byte
			select {
			case buffer = <-free:
			case <-ctx.Done():
				return
			}
			_, n := w.list.Span(i)
			_, err := io.ReadFull(body, buffer[:n])
			switch {
			case err != nil:
				err = fmt.Errorf("the pieces of the image stopped coming: %w", err)
			case sha256.Sum256(buffer[:n]) != w.list.Sum(i):
				err = fmt.Errorf("piece %d of the image came with another content than its list says", i)
			}
			arrived <- came{i, buffer[:n], err} // there is room for all that are not free
			if err != nil {
				return
			}
		}
	}()
	got := 0
	for p := range arrived {
		if p.err == nil {
			p.err = use(p.i, p.content)
		}
		if p.err != nil {
			cancel()
			for range arrived { // until the other end of it has closed what it reads
			}
			return p.err
		}
		got++
		free <- p.content[:cap(p.content)]
	}
	if got != len(pieces) {
		return context.Cause(ctx)
	}
	return nil
}

// fetchSpecial gets the pieces that are written with care, into memory.
func (w *writer) fetchSpecial(ctx context.Context) error {
	var missing []int
	buffer := make([]byte, reimage.Piece)
	for _, i := range w.special {
		if w.content[i] != nil {
			continue
		}
		// One that is only kept to be put back is on the card.
		equal, err := w.holds(i, buffer)
		if err != nil {
			return err
		}
		if equal {
			_, n := w.list.Span(i)
			w.content[i] = append([]byte(nil), buffer[:n]...)
			continue
		}
		missing = append(missing, i)
	}
	for len(missing) > 0 {
		now := missing[:min(len(missing), askPieces)]
		err := w.fetch(ctx, now, func(i int, content []byte) error {
			w.content[i] = append([]byte(nil), content...)
			return nil
		})
		if err != nil {
			return err
		}
		missing = missing[len(now):]
	}
	return nil
}

// part gives the bytes of a special piece that belong to a span of it.
func (w *writer) part(i int, s span) []byte {
	at, _ := w.list.Span(i)
	return w.content[i][s.from-at : s.to-at]
}

// put writes the parts of the special pieces that pick gives, where the card has
// others, until it has them: nothing in between counts as written. It says whether
// there was anything to write.
func (w *writer) put(pick func(span) []span) (wrote bool, err error) {
	for round := 0; ; round++ {
		clean := true
		for _, i := range w.special {
			for _, s := range pick(w.span(i)) {
				want := w.part(i, s)
				equal, err := same(w.card, s.from, want)
				if err != nil {
					return wrote, err
				}
				if equal {
					continue
				}
				if round == rounds {
					return wrote, errLoses
				}
				clean, wrote = false, true
				if _, err := w.card.WriteAt(want, s.from); err != nil {
					return wrote, writeError(s.from, err)
				}
			}
		}
		if clean {
			return wrote, nil
		}
		if err := w.card.Sync(); err != nil {
			return wrote, syncError(err)
		}
		if err := w.card.Forget(); err != nil {
			return wrote, forgetError(err)
		}
	}
}

// differs says whether the card has other bytes than the special pieces in the parts
// that pick gives.
func (w *writer) differs(pick func(span) []span) (bool, error) {
	for _, i := range w.special {
		for _, s := range pick(w.span(i)) {
			if equal, err := same(w.card, s.from, w.part(i, s)); err != nil || !equal {
				return true, err
			}
		}
	}
	return false, nil
}

// early are the parts of a special piece that are written before the boot partition.
func (w *writer) early(s span) []span {
	rest := without([]span{s}, w.late...)
	if w.moved {
		rest = without(rest, tableSpan)
	}
	return rest
}

// writeEarly writes what is left outside of the boot partition, and the partition
// table, where that leaves the boot partition in its place.
func (w *writer) writeEarly() error {
	if differ, err := w.differs(w.early); err != nil || !differ {
		return err
	}
	if err := w.touch(); err != nil {
		return err
	}
	_, err := w.put(w.early)
	return err
}

// seals are the sectors without which the boot ROM finds nothing on the card: the
// first ones of the boot partition that there is, and of the one that is to be, which
// may lie in the midst of it.
func (w *writer) seals() []span {
	var all []span
	if _, now, ok := bootEntry(w.table, w.card.Size()); ok && w.moved {
		all = append(all, span{now.from, now.from + sector})
	}
	return append(all, w.first())
}

// writeLate writes the boot partition, its first sector last, and the partition table
// where that moves it.
func (w *writer) writeLate(ctx context.Context) error {
	all := func(s span) []span {
		parts := within([]span{s}, w.late...)
		if w.moved {
			parts = append(parts, within([]span{s}, tableSpan)...)
		}
		return parts
	}
	differ, err := w.differs(all)
	if err != nil || !differ {
		return err
	}
	if err := w.touch(); err != nil {
		return err
	}
	w.say(ctx, reimage.Booting, 0, 0)
	if err := ctx.Err(); err != nil {
		return err
	}
	w.Log("the boot partition is written: %d MiB", int64(len(w.special))*reimage.Piece>>20)
	for _, s := range w.seals() {
		if _, err := w.card.WriteAt(make([]byte, sector), s.from); err != nil {
			return writeError(s.from, err)
		}
		if err := w.card.Sync(); err != nil {
			return syncError(err)
		}
	}
	if _, err := w.put(func(s span) []span { return without(all(s), w.first()) }); err != nil {
		return err
	}
	_, err = w.put(func(s span) []span { return within([]span{s}, w.first()) })
	return err
}
