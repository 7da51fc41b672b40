package reimage

import (
	"context"
	"fmt"

	"hatchery/netboot/store"
)

// A Plan is what is about to be done to a slot's card.
type Plan struct {
	Root    store.Root  `json:"root"`              // what it is to hold
	Current *store.Root `json:"current,omitempty"` // what it holds, as far as it was written from here
	Size    int64       `json:"size"`              // of the image, bytes
	Same    bool        `json:"same"`              // it was written with this before: a rebuild, no upgrade
	// Bytes are in what differs between Current and Root: so many are written at the least.
	// 0 where nobody knows, as before either was written from here.
	Bytes int64 `json:"bytes,omitempty"`
	// Generation is of the certificate in Root, PreviousGeneration of that in what the slot
	// had before Current; 0 where there is none, or nobody knows.
	Generation         int `json:"generation,omitempty"`
	PreviousGeneration int `json:"previous_generation,omitempty"`
	// NoWayBack says why what the card holds cannot be written to it again afterwards, with
	// the remedy; "" where it can.
	NoWayBack string `json:"no_way_back,omitempty"`
}

// planRead is how much of images is read for a plan, in bytes: what is known of them was
// found out when they were written.
const planRead = 64 << 20

// Check says what keeps a slot's card from being written, with the remedy. Whether the node
// can be reached is seen when it is asked.
func (s *Service) Check(ctx context.Context, slot int) error {
	p, err := s.Plan(ctx, slot)
	if err != nil {
		return err
	}
	return s.young(slot, p.Generation)
}

// Plan says what would be written to a slot's card. Whether that is refused, [Service.Check]
// says.
func (s *Service) Plan(ctx context.Context, slot int) (*Plan, error) {
	root, err := s.o.Store.Wanted(slot)
	if err != nil {
		return nil, fmt.Errorf("cannot write the card of p%d: %w", slot, err)
	}
	st, err := s.check(slot)
	if err != nil {
		return nil, err
	}
	image, err := s.o.Store.Image(*root)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	p := &Plan{Root: *root, Size: image.Size(), NoWayBack: noWayBack(st)}
	st = onCard(st)
	if p.Generation, err = generation(image, slot); err != nil {
		return nil, err
	}
	if st.Current != nil {
		current := st.Current.Root
		p.Current, p.Same = &current, current.Same(root)
	}
	if p.Current != nil && !p.Same {
		p.Bytes = s.differ(ctx, p.Current, image)
	}
	if st.Previous != nil {
		p.PreviousGeneration = s.generationOf(&st.Previous.Root)
	}
	return p, nil
}

// differ is how many bytes an image has that a root has not; 0 where that takes long to
// find out.
func (s *Service) differ(ctx context.Context, from *store.Root, to *store.Image) int64 {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	default:
		return 0 // a list is being made, which takes its time
	}
	old, err := s.o.Store.Image(*from)
	if err != nil {
		return 0
	}
	defer old.Close()
	l := &lists{dir: s.listsDir(), most: planRead}
	was, err := l.of(ctx, old.Chain())
	if err != nil {
		return 0
	}
	is, err := l.of(ctx, to.Chain())
	if err != nil {
		return 0
	}
	var bytes int64
	for i := range is.Len() {
		if _, n := is.Span(i); !is.Free(i) && (i >= was.Len() || is.Sum(i) != was.Sum(i)) {
			bytes += int64(n)
		}
	}
	return bytes
}

func (s *Service) check(slot int) (*store.State, error) {
	if _, known := s.targets[slot]; !known {
		return nil, fmt.Errorf("p%d is not a slot of this cluster", slot)
	}
	st, err := s.o.Store.State(slot)
	if err != nil {
		return nil, err
	}
	if st.Mode != store.Off {
		return nil, fmt.Errorf("cannot write the card of p%d: %w", slot, store.ErrNetboots)
	}
	return st, nil
}
