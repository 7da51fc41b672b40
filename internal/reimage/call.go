package reimage

import (
	"fmt"
	"slices"
)

// Pieces checks what is wanted of a list, and gives how many pieces that are. Of those
// that are free there is nothing to be had.
func (w *Wanted) Pieces(l *List) (int, error) {
	n := 0
	for _, run := range w.Runs {
		first, count := run[0], run[1]
		switch {
		case count <= 0 || count > MaxWanted || n+int(count) > MaxWanted:
			return 0, fmt.Errorf("between 1 and %d pieces are had at once", MaxWanted)
		case first < 0 || first > int64(l.Len())-count:
			return 0, fmt.Errorf("pieces %d to %d are not among the %d of the image", first, first+count-1, l.Len())
		}
		for i := first; i < first+count; i++ {
			if l.Free(int(i)) {
				return 0, fmt.Errorf("piece %d is none that the image uses", i)
			}
		}
		n += int(count)
	}
	if n == 0 {
		return 0, fmt.Errorf("between 1 and %d pieces are had at once", MaxWanted)
	}
	return n, nil
}

// Check says what is wrong with what a node says of its progress.
func (p *Progress) Check() error {
	switch {
	case !slices.Contains([]string{Comparing, Writing, Verifying, Booting, Done, Failed}, p.State):
		return fmt.Errorf("%.40q is no state of a card that is written", p.State)
	case p.Done < 0 || p.Total < 0 || p.Done > p.Total:
		return fmt.Errorf("%d of %d bytes cannot be", p.Done, p.Total)
	case p.Attempt < 0:
		return fmt.Errorf("%d attempts cannot be", p.Attempt)
	case p.Fault != "" && p.Fault != FaultCard:
		return fmt.Errorf("%.40q is nothing that a failure can be the fault of", p.Fault)
	case len(p.Detail) > 4*MaxText:
		return fmt.Errorf("a reason of %d bytes is longer than %d", len(p.Detail), 4*MaxText)
	}
	return nil
}

// Check says what is wrong with an order to arm.
func (a *Arm) Check() error {
	if a.Operation == "" || len(a.Operation) > MaxText {
		return fmt.Errorf("an operation's name has 1 to %d bytes, not %d", MaxText, len(a.Operation))
	}
	return nil
}
