// Package networkd says whether systemd-networkd is still to come. The agent
// starts beside it, and the links are networkd's to make, once udev has named
// them: what is made in its place too early it takes down again, and a link
// that is up, udev does not rename.
package networkd

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// Dir is systemd-networkd's folder of states (sd-network, private).
const Dir = "/run/systemd/netif"

// Starts is for how long Await waits.
const Starts = time.Minute

// Await waits until systemd-networkd knows the links of this machine, or most is
// over. It does not wait where there is no such service: its folder is made
// early in the boot (tmpfiles.d/systemd-network.conf), and has a file a link as
// soon as it runs.
func Await(ctx context.Context, dir string, most time.Duration) error {
	for began := time.Now(); toCome(dir) && time.Since(began) < most; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

func toCome(dir string) bool {
	links, err := os.ReadDir(filepath.Join(dir, "links"))
	return err == nil && len(links) == 0
}
