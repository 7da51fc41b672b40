package flash

import (
	"errors"
	"fmt"

	"hatchery/internal/parttable"
)

// growTo is what a grown partition's end is a multiple of, in bytes.
const growTo = 4 << 20

// linux is the type of an MBR's partition with a file system of Linux's.
const linux = 0x83

// growth makes the head that the card gets in the end, and sees that the
// image's partitions have room, and nothing lies before the first of them.
func (e *engine) growth() error {
	e.head = aligned(headSize)
	copy(e.head, e.own)
	table, err := parttable.Read(peekReader(e.peek), e.m.ImageSize)
	if err != nil {
		var gpt *parttable.GPTError
		if errors.As(err, &gpt) {
			e.notGrown("the image has a GUID partition table")
			return nil
		}
		e.notGrown(fmt.Sprintf("the image has not the partitions of Raspberry Pi OS: %v", err))
		return nil
	}
	var last parttable.Partition
	number, first := 0, int64(0)
	for i, p := range table.Partitions {
		if !p.Used() {
			continue
		}
		if p.End() > last.End() {
			last, number = p, i+1
		}
		if first == 0 || p.Start < first {
			first = p.Start
		}
	}
	if last.End() > e.size {
		return &TooSmallError{Card: e.card.Size(), Need: last.End()}
	}
	if e.block != parttable.SectorSize {
		why := fmt.Sprintf("the card has blocks of %d bytes, the image's partition table counts in %d", e.block, parttable.SectorSize)
		e.notGrown(why)
		e.warn("%s: most machines will find no partitions", why)
		return nil
	}
	e.clearGap(first)
	if !e.o.Grow {
		return nil
	}
	if number != parttable.Root || last.Type != linux {
		e.notGrown(fmt.Sprintf("the image's last partition is number %d of type %#02x, not the root file system", number, last.Type))
		return nil
	}
	end := min(e.size/growTo*growTo, mostMBR)
	if end <= last.End() {
		e.notGrown("the card has no more room than the image")
		return nil
	}
	if err := table.SetPartitionSize(number, end-last.Start); err != nil {
		return fmt.Errorf("cannot grow partition %d to the card's size: %w", number, err)
	}
	if err := table.Write(headWriter(e.head)); err != nil {
		return err
	}
	e.result(func(r *Result) { r.Grown = &Grown{number, last.Size, end - last.Start} })
	return nil
}

func (e *engine) notGrown(why string) { e.result(func(r *Result) { r.NotGrown = why }) }

// mostMBR is how far a partition of an MBR can reach, down to a multiple of
// growTo.
const mostMBR = (1<<32 - 1) * parttable.SectorSize / growTo * growTo

// peekReader is the beginning of an image; behind it are zeros.
type peekReader []byte

func (r peekReader) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(r)) {
		copy(p, r[off:])
	}
	return len(p), nil
}

// headWriter is memory that is written to.
type headWriter []byte

func (w headWriter) WriteAt(p []byte, off int64) (int, error) {
	return copy(w[off:], p), nil
}
