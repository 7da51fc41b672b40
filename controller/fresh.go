package controller

import (
	"context"
	"time"
)

// fetchTime bounds one look at the engine.
const fetchTime = 30 * time.Second

// errorAge is how long an error is passed on to those who would take an older
// value: what was not there yet may be.
const errorAge = time.Second

// A fresh is something that is fetched, and shared by all who asked before the
// fetch began: 252 nodes that join at once cost two lists of nodes, not 252.
type fresh[T any] struct {
	fetch func(context.Context) (T, error)
	turn  chan struct{} // held by whoever looks or fetches
	began time.Time     // of the fetch that gave value and err
	value T
	err   error
}

func newFresh[T any](fetch func(context.Context) (T, error)) *fresh[T] {
	return &fresh[T]{fetch: fetch, turn: make(chan struct{}, 1)}
}

// since gives the value as it was at a moment or later.
func (f *fresh[T]) since(ctx context.Context, moment time.Time) (T, error) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	if f.began.IsZero() || f.began.Before(moment) || f.err != nil && time.Since(f.began) >= errorAge {
		// The fetch is not the caller's alone, so it does not end with it.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
		defer cancel()
		f.began = time.Now()
		f.value, f.err = f.fetch(limited)
	}
	return f.value, f.err
}
