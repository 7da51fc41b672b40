package enrol_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"testing"
	"time"

	"hatchery/internal/enrol"
)

// TestMovingStandsStill: whoever takes nothing more of an answer does not hold it for ever.
func TestMovingStandsStill(t *testing.T) {
	ended := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		m := enrol.NewMoving(w).Within(50 * time.Millisecond)
		defer m.End()
		for part := make([]byte, 1<<20); ; {
			if _, err := m.Write(part); err != nil {
				ended <- err
				return
			}
		}
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("an answer that nobody takes does not end")
	}
}

// TestMovingGoesOn: an answer comes whole, and its connection serves the next call, however
// long after.
func TestMovingGoesOn(t *testing.T) {
	t.Parallel() // it waits most of the time
	const short = time.Second
	content := bytes.Repeat([]byte("0123456789abcdef"), 5<<10)
	first := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !first {
			w.Write(content) // with no limit of its own
			return
		}
		first = false
		m := enrol.NewMoving(w).Within(short)
		defer m.End()
		for half := range 2 {
			part := content[half*len(content)/2 : (half+1)*len(content)/2]
			if n, err := m.Write(part); n != len(part) || err != nil {
				t.Errorf("%d bytes of %d, %v", n, len(part), err)
			}
			// What is not being written has no limit.
			time.Sleep(short + short/4)
		}
	}))
	defer server.Close()
	for n := range 2 {
		request, err := http.NewRequest(http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		reused := false
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
		answer, err := server.Client().Do(request.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || !bytes.Equal(got, content) || reused != (n == 1) {
			t.Errorf("call %d: %d bytes, %v, on the same connection: %v", n, len(got), err, reused)
		}
		time.Sleep(short + short/4)
	}
}

// TestMovingRecorded is an answer that knows no limits.
func TestMovingRecorded(t *testing.T) {
	r := newRecorder()
	m := enrol.NewMoving(r)
	if n, err := m.Write([]byte("all")); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	m.End()
	if r.Body.String() != "all" || !r.Flushed {
		t.Errorf("%q, flushed: %v", r.Body, r.Flushed)
	}
}
