package usbhost

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"hatchery/internal/atomicfile"
)

// cacheFile is the form of the file that keeps a wiring.
type cacheFile struct {
	Hub      string `json:"hub"`
	Straight bool   `json:"straight"`
	Version  string `json:"version,omitempty"`
}

// readCache reads what was kept; a file that is not there, or makes no sense, is no
// knowledge.
func readCache(file string) (Wiring, bool) {
	if file == "" {
		return Wiring{}, false
	}
	f, err := os.Open(file)
	if err != nil {
		return Wiring{}, false
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return Wiring{}, false
	}
	return parseCache(raw)
}

func parseCache(raw []byte) (Wiring, bool) {
	var c cacheFile
	if err := json.Unmarshal(raw, &c); err != nil || !validPath(c.Hub) {
		return Wiring{}, false
	}
	if c.Version != "" {
		if order, err := straight(c.Version); err != nil || order != c.Straight {
			return Wiring{}, false
		}
	}
	return Wiring{Hub: c.Hub, Straight: c.Straight, Version: c.Version, How: "as seen before"}, true
}

func writeCache(file string, w Wiring) error {
	raw, err := json.Marshal(cacheFile{Hub: w.Hub, Straight: w.Straight, Version: w.Version})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(file, strings.NewReader(string(raw)+"\n"), 0o644); err != nil {
		return fmt.Errorf("keeping the HAT's wiring: %w", err)
	}
	return nil
}
