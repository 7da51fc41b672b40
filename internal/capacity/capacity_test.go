package capacity_test

import (
	"math"
	"testing"

	"hatchery/internal/capacity"
)

func TestText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB",
		31_914_983_424: "32 GB", 1 << 40: "1.1 TB", math.MaxInt64: "9.2 EB",
	} {
		if got := capacity.Text(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
}
