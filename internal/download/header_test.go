package download_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"hatchery/internal/download"
)

func TestParseRange(t *testing.T) {
	for _, test := range []struct{ header, want string }{
		{"bytes 100-199/200", "100 199 200 true"},
		{"bytes 0-0/1", "0 0 1 true"},
		{"bytes 100-199/*", "100 199 -1 true"},
		{"bytes 0-9223372036854775806/9223372036854775807", "0 9223372036854775806 9223372036854775807 true"},
		{"bytes 100-199/199", "false"},
		{"bytes 200-199/300", "false"},
		{"bytes -5-199/300", "false"},
		{"bytes +5-199/300", "false"},
		{"bytes 5-/300", "false"},
		{"bytes */300", "false"},
		{"bytes 0-9223372036854775808/*", "false"},
		{"lines 1-2/3", "false"},
		{"bytes 1-2", "false"},
		{"", "false"},
	} {
		first, last, size, ok := download.ParseRange(test.header)
		got := fmt.Sprint(ok)
		if ok {
			got = fmt.Sprint(first, last, size, ok)
		}
		if got != test.want {
			t.Errorf("%q: got %s, want %s", test.header, got, test.want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"bytes 100-199/200", "bytes 0-0/*", "bytes */1", "bytes 9-9-9/9/9"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		first, last, size, ok := download.ParseRange(header)
		if ok && (first < 0 || last < first || size != -1 && size <= last) {
			t.Errorf("%q: %d-%d/%d", header, first, last, size)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"1", "-1", "99999999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", ""} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, after, date string) {
		header := http.Header{"Retry-After": {after}, "Date": {date}}
		if d := download.RetryAfter(header); d < 0 || d%time.Second != 0 && d < 1<<62 {
			t.Errorf("%q at %q: %v", after, date, d)
		}
	})
}
