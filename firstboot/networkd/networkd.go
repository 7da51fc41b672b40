// Package networkd says whether systemd-networkd is still to come. The agent
// starts beside it, and the links are networkd's to make, once udev has named
// them: what is made in its place too early it takes down again, and a link
// that is up, udev does not rename.
package networkd

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Dir is systemd-networkd's folder of states (sd-network, private).
const Dir = "/run/systemd/netif"

// Await waits until systemd-networkd knows the links of this machine, or most is
// over. It does not wait where there is no such service: its folder is made
// early in the boot (tmpfiles.d/systemd-network.conf), and has a file a link as
// soon as it runs.
func Await(ctx context.Context, dir string, most time.Duration) error {
	return await(ctx, most, func() bool {
		links, err := os.ReadDir(filepath.Join(dir, "links"))
		return err == nil && len(links) == 0
	})
}

// AwaitNamed waits until a link has its name, or most is over: until then
// systemd-networkd waits for udev, and says so.
func AwaitNamed(ctx context.Context, dir string, index int, most time.Duration) error {
	return await(ctx, most, func() bool {
		admin, _ := Admin(dir, index)
		return admin == "pending" || admin == "initialized"
	})
}

// await looks again and again, while.
func await(ctx context.Context, most time.Duration, while func() bool) error {
	for began := time.Now(); while() && time.Since(began) < most; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

// Admin is what systemd-networkd says of its work on a link (ADMIN_STATE=), and
// whether it knows that at all.
func Admin(dir string, index int) (state string, there bool) {
	text, err := os.ReadFile(filepath.Join(dir, "links", strconv.Itoa(index)))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		if admin, ok := strings.CutPrefix(strings.TrimSpace(line), "ADMIN_STATE="); ok {
			return admin, true
		}
	}
	return "", true
}
