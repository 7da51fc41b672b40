package enrol_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
)

// serve runs a server with an identity until the test ends.
func serve(t testing.TB, id *enrol.Identity, handler http.Handler) *enroltest.Service {
	t.Helper()
	return enroltest.Serve(t, id, handler, nil)
}

// clientOf is a client with no options of its own.
func clientOf(s *enroltest.Service, id *enrol.Identity) *enrol.Client {
	return s.Client(id, enrol.ClientOptions{})
}

// background is a context that ends with the test, or late.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
