package health

import (
	"io"
	"os"
)

// small reads at most so many bytes of a file, "" where there is none.
func small(path string, most int64) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, most))
	if err != nil {
		return ""
	}
	return string(data)
}
