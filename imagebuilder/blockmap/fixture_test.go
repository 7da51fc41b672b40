package blockmap_test

import (
	"sync/atomic"
	"testing"

	"hatchery/internal/progress"
)

func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// progressSum counts what work reports.
type progressSum struct{ n atomic.Int64 }

func (p *progressSum) Begin(string, int64) progress.Task { return p }
func (p *progressSum) Add(n int64)                       { p.n.Add(n) }
func (p *progressSum) End(error)                         {}
