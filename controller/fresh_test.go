package controller_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"hatchery/controller"
)

// What failed is asked for again, however old a value may be; what did not, is
// not.
func TestFresh(t *testing.T) {
	calls := 0
	failing := errors.New("not ready yet")
	since := controller.Fresh(func(context.Context) (int, error) {
		if calls++; calls == 1 {
			return 0, failing
		}
		return calls, nil
	})
	long := time.Now().Add(-time.Hour)
	if _, err := since(t.Context(), long); !errors.Is(err, failing) {
		t.Errorf("the first look: %v", err)
	}
	time.Sleep(controller.ErrorAge)
	if n, err := since(t.Context(), long); n != 2 || err != nil {
		t.Errorf("after an error: %d, %v, want another look", n, err)
	}
	if n, err := since(t.Context(), long); n != 2 || err != nil {
		t.Errorf("what is fresh enough is %d, %v, want it as it was", n, err)
	}
	if n, err := since(t.Context(), time.Now()); n != 3 || err != nil {
		t.Errorf("what is not fresh enough is %d, %v, want another look", n, err)
	}
}
