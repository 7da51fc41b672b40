package operation

import "slices"

// Holds says whether the root that a slot had before is to be held on to, so that it can
// go back: an upgrade is at work on it, or the last operation that renewed it was
// one that was done not long ago, and it did not go back. A rebuild with the root that it
// has changes nothing of that. It does not wait.
func (s *Service) Holds(slot int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range slices.Backward(s.record.Operations) {
		for i := range op.Slots {
			sl := &op.Slots[i]
			switch {
			case sl.Slot != slot:
			case op.Request.Kind != Rebuild && !op.Over() && !sl.over():
				return true
			case !sl.Renewed && !sl.Undone:
				// It came to nothing.
			case op.Request.Kind == Rebuild && sl.To != "" && sl.To == sl.Had:
				// It got the root that it had, and what it had before that is what it was.
			case op.Request.Kind != Upgrade, sl.Undone && (sl.Returned || sl.Left):
				return false
			default:
				return s.o.Now().Sub(sl.Since) < s.o.Limits.Hold
			}
		}
	}
	return false
}

// wentBack says whether the last operation that changed a slot's root had it go back to
// the one that it has.
func (s *Service) wentBack(slot int, current string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range slices.Backward(s.record.Operations) {
		for i := range op.Slots {
			sl := &op.Slots[i]
			if sl.Slot != slot || !sl.Renewed && !sl.Undone {
				continue
			}
			return sl.over() && sl.Undone && sl.Back != "" && sl.Back == current
		}
	}
	return false
}
