// Package capacity writes and reads sizes as makers of cards and disks do: in powers of
// ten.
package capacity

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Text is a size in bytes, for people: "2.1 MB", "32 GB".
func Text(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	size, i := float64(n), 0
	for size >= 999.5 && i < len(units)-1 {
		size, i = size/1000, i+1
	}
	if size < 9.95 && i > 0 {
		return fmt.Sprintf("%.1f %s", size, units[i])
	}
	return fmt.Sprintf("%.0f %s", size, units[i])
}

// Parse reads a size as [Text] writes it, with or without the space and the B,
// and with powers of two where it is said: "8GB", "512 M", "4GiB", "1000000".
func Parse(text string) (int64, error) {
	number := strings.TrimRight(text, "BKMGTPEbkmgtpei ")
	unit := strings.ToUpper(strings.TrimSpace(text[len(number):]))
	size, err := strconv.ParseFloat(number, 64)
	if err != nil || size < 0 || strings.ContainsAny(number, "xXnN_+eE") {
		return 0, fmt.Errorf("%q is not a size: write one such as 8GB", text)
	}
	base := int64(1000)
	if rest, ok := strings.CutSuffix(unit, "IB"); ok {
		if rest == "" {
			return 0, fmt.Errorf("%q is not a size: write one such as 8GiB", text)
		}
		base, unit = 1024, rest
	} else {
		unit = strings.TrimSuffix(unit, "B")
	}
	power := strings.Index("KMGTPE", unit)
	if len(unit) > 1 || power < 0 {
		return 0, fmt.Errorf("%q is not a size: write one such as 8GB", text)
	}
	if unit != "" {
		for range power + 1 {
			size *= float64(base)
		}
	}
	if size >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is more than there is", text)
	}
	return int64(size), nil
}
