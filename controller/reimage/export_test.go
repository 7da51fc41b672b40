package reimage

import (
	"context"

	"hatchery/internal/layer"
	wire "hatchery/internal/reimage"
)

// ListOf makes the list of an image, kept in dir, and says how many bytes it read for it.
func ListOf(ctx context.Context, dir string, top layer.Parent) (list *wire.List, read int64, err error) {
	counts := make(chan int64, 1)
	counts <- 0
	l := &lists{dir: dir, hashed: func(n int64) { counts <- <-counts + n }}
	list, err = l.of(ctx, top)
	return list, <-counts, err
}

// DecodeRecords reads what survives the service, and gives it as it would be written again.
func DecodeRecords(data []byte) (again []byte, slots int, err error) {
	records, err := decodeRecords(data)
	if err != nil {
		return nil, 0, err
	}
	again, err = encodeRecords(records)
	return again, len(records), err
}

// LargestFile is the most that records may take, in bytes.
const LargestFile = largestFile

// HoldLists has no list made until release.
func (s *Service) HoldLists() (release func()) {
	s.turn <- struct{}{}
	return func() { <-s.turn }
}

// OpenImages is how many images the service has open.
func (s *Service) OpenImages() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.preps)
}

// IsWhole says whether a slot's card is taken for written, and its node for back.
func (s *Service) IsWhole(slot int) bool { return s.whole()[slot] != nil }
