package netboot

import (
	"context"

	"hatchery/netboot/slots"
)

// followLinks tells the board which links come and go.
func (s *Service) followLinks(ctx context.Context) {
	was := Links{map[int]bool{}, map[int]bool{}}
	s.o.Links(ctx, func(now Links) {
		for n, sl := range s.slots {
			sl.mu.Lock()
			sl.cardUp = now.Card[n]
			sl.mu.Unlock()
			if now.Card[n] {
				sl.asks.Store(false)
			}
			s.change(n, was.Booted[n], now.Booted[n], slots.LinkUp, slots.LinkDown)
			s.change(n, was.Card[n], now.Card[n], slots.CardUp, slots.CardDown)
		}
		was = now
	})
}

func (s *Service) change(n int, was, is bool, up, down slots.Kind) {
	switch {
	case is && !was:
		s.board.Tell(n, slots.Event{Kind: up})
	case was && !is:
		s.board.Tell(n, slots.Event{Kind: down})
	}
}
