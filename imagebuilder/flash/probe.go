package flash

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
)

// A probe is a block of random bytes on a place of the card that the image does
// not need. Cards are sold that claim more than they have: what is written past
// that is lost, or overwrites what lies at the beginning.
type probe struct {
	off     int64
	content []byte
	err     error // of writing it, or reading it back
	bad     bool
}

const probeSize = 4096

// places gives where to probe: at the powers of two from 1 MiB on, in every
// eighth of the card, and as far back as no old GPT's copy is overwritten.
func (e *engine) places() []int64 {
	last := (e.size - e.padded(oldGPT) - probeSize) / probeSize * probeSize
	var want []int64
	for at := int64(1 << 20); at < last; at *= 2 {
		want = append(want, at)
	}
	for i := range int64(8) {
		want = append(want, e.size/8*i/probeSize*probeSize)
	}
	want = append(want, last)
	var out []int64
	for _, at := range want {
		// The next place that is not needed.
		for _, g := range e.gaps() {
			place := (max(at, g.Offset, 2*headSize) + probeSize - 1) / probeSize * probeSize
			if place <= last && place+probeSize <= g.Offset+g.Length {
				out = append(out, place)
				break
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// probe writes the probes and sees what the card has made of them.
func (e *engine) probe(ctx context.Context) error {
	for _, at := range e.places() {
		p := probe{off: at, content: aligned(probeSize)}
		rand.Read(p.content)
		p.content[510] = 0 // nothing that boots
		e.probes = append(e.probes, p)
	}
	for i := range e.probes {
		p := &e.probes[i]
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.err = e.writeAt(p.content, p.off); e.isGone(p.err) {
			return p.err
		}
	}
	if len(e.probes) == 0 {
		return nil
	}
	if err := e.sync(); err != nil {
		return err
	}
	return e.judge(ctx, true)
}

// probeAgain looks at the probes when the data is written: what a card's end has
// in common with its beginning is overwritten now.
func (e *engine) probeAgain(ctx context.Context) error {
	if len(e.probes) == 0 {
		return nil
	}
	return e.judge(ctx, false)
}

// judge reads the probes. Behind the first note, nothing else was written yet.
func (e *engine) judge(ctx context.Context, first bool) error {
	var wraps int64 // what is known to be a multiple of the card's real size
	found := aligned(probeSize)
	for i := range e.probes {
		p := &e.probes[i]
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.err == nil {
			p.err = e.read(found, p.off)
		}
		if e.isGone(p.err) {
			return p.err
		}
		p.bad = p.err != nil || !bytes.Equal(found, p.content)
		if p.err != nil || !p.bad {
			continue
		}
		for _, q := range e.probes {
			if q.off != p.off && bytes.Equal(found, q.content) {
				wraps = gcd(wraps, q.off-p.off)
			}
		}
	}
	if first {
		if err := e.read(found, 0); err != nil {
			return err
		}
		for _, q := range e.probes {
			if bytes.Equal(found, q.content) {
				wraps = gcd(wraps, q.off)
			}
		}
		if wraps == 0 && !bytes.Equal(found[:headSize], e.note) {
			return &MismatchError{0, headSize, 0}
		}
	}
	k := slices.IndexFunc(e.probes, func(p probe) bool { return p.bad })
	if k < 0 && wraps == 0 {
		return nil
	}
	if !first && e.probes[k].err != nil {
		return e.probes[k].err
	}
	real := wraps
	if real == 0 {
		real = e.probes[k].off
	}
	fake := &FakeError{Claimed: e.card.Size(), Real: real, Wraps: wraps != 0 || !first}
	// Fake is a card that has nothing from some place on. One bad place among
	// good ones is a worn card's.
	tail := k >= 0 && !slices.ContainsFunc(e.probes[k:], func(p probe) bool { return !p.bad })
	if wraps == 0 && (!tail || k == 0) && first {
		p := e.probes[k]
		if p.err != nil {
			return p.err
		}
		return &MismatchError{p.off, probeSize, 0}
	}
	if err := e.put(e.note[:e.block], 0); err != nil && e.isGone(err) {
		return errors.Join(fake, err)
	}
	return fake
}

func gcd(a, b int64) int64 {
	if b < 0 {
		b = -b
	}
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
