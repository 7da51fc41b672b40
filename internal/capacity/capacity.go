// Package capacity writes sizes as makers of cards and disks do: in powers of
// ten.
package capacity

import "fmt"

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
