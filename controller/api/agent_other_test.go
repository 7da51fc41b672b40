//go:build !linux

package api_test

import (
	"net/http"
	"testing"
)

// keptCalls are a node's, which runs Linux.
func keptCalls(*testing.T) map[string]http.Handler { return nil }
