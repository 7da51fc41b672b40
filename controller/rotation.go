package controller

import (
	"context"
	"time"
)

// rotateTime bounds one rotation.
const rotateTime = 30 * time.Second

// rotating makes the worker token worthless once it was handed out and nobody
// is joining any more.
func (s *service) rotating(ctx context.Context) {
	step := min(s.Times.Rotate/4, 15*time.Second)
	for ctx.Err() == nil {
		pause(ctx, step)
		if err := s.rotateManagerToken(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the manager token cannot be rotated yet", "error", err)
		}
		if !s.rotationDue(time.Now()) {
			continue
		}
		if err := s.rotate(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the join token cannot be rotated yet", "error", err)
			pause(ctx, 4*step)
		}
	}
}

func (s *service) rotationDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rotationIsDue(now)
}

func (s *service) rotationIsDue(now time.Time) bool {
	if s.registry.RotateNow {
		return true
	}
	if !s.registry.TokenOut || now.Sub(s.handed) < s.Times.Rotate {
		return false
	}
	for _, slot := range s.slots {
		if slot.joins(now, s.Times.Join) {
			return false
		}
	}
	return true
}

// rotate rotates the token if that is due still when nobody is handing it out.
// Who was killed in between rotates once more.
func (s *service) rotate(ctx context.Context) error {
	s.token.Lock()
	defer s.token.Unlock()
	if !s.rotationDue(time.Now()) {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, rotateTime)
	defer cancel()
	if err := s.Engine.RotateWorkerToken(limited); err != nil {
		return err
	}
	s.mu.Lock()
	s.registry.TokenOut, s.registry.RotateNow = false, false
	s.changed()
	s.event(nil, EventToken, "the join token was rotated: the one that was handed out is worth nothing any more")
	s.mu.Unlock()
	return nil
}
