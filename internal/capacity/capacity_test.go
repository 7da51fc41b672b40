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

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{
		"8GB": 8e9, "8 GB": 8e9, "8G": 8e9, "512M": 512e6, "1.5GB": 15e8, "4GiB": 4 << 30, "64 kB": 64e3, "64 KiB": 64 << 10, "1000000": 1e6, "12B": 12, "2TB": 2e12,
	} {
		if got, err := capacity.Parse(text); err != nil || got != want {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GB", "-1GB", "8XB", "8GBB", "iB", "8iB", "0x10", "1e3", "NaN", "Inf", "99999999999GB", "8 G B", "8,5GB", "8KM"} {
		if n, err := capacity.Parse(text); err == nil {
			t.Errorf("%q was read as %d", text, n)
		}
	}
}
