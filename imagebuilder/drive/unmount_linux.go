package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long something that has the drive for a moment is waited for:
// an indexer after the plugging in, udev's probes.
const patience = 3 * time.Second

// unmount ends the mounts of a drive, the latest first, and with force swap.
func (l linux) unmount(ctx context.Context, d Drive, force bool) error {
	if force {
		if err := l.swapoff(d); err != nil {
			return err
		}
	}
	for range 64 { // an unmounting may show what was mounted there before
		if len(d.Mounts) == 0 {
			return nil
		}
		t, err := l.table()
		if err != nil {
			return err
		}
		for _, m := range slices.Backward(d.Mounts) {
			if !m.Casual && !force {
				return d.Refusal(false)
			}
			if wait, err := t.hidden(d, m); err != nil {
				return err
			} else if wait {
				continue
			}
			if err := unmountOne(ctx, d, m); err != nil {
				return err
			}
		}
		now, err := l.find(ctx, d.Path)
		if err != nil {
			return err
		}
		d = now
	}
	return &BusyError{Path: d.Path, Reason: "something mounts it again and again"}
}

// hidden says whether something hides a mount, so that an unmounting by its place
// would end another one: an error, or, where that is the drive's as well and its
// turn comes, wait.
func (t *table) hidden(d Drive, m Mount) (wait bool, err error) {
	mine := func(m Mount) (all []mounted) {
		for _, b := range t.named {
			if b.device() != m.Device {
				continue
			}
			for _, on := range t.on[b.name] {
				if on.place == m.Place {
					all = append(all, on)
				}
			}
		}
		return all
	}
	var lies mounted
	for _, on := range mine(m) {
		other, found := over(t.mounts, on)
		if !found {
			return false, nil
		}
		// Of several at one place the topmost one says what is over all.
		if !slices.Contains(mine(m), other) {
			lies = other
		}
	}
	if lies.id == "" {
		return true, nil // it has just gone
	}
	for _, other := range d.Mounts {
		if slices.Contains(mine(other), lies) {
			return true, nil
		}
	}
	return false, &BusyError{Path: d.Path, Mount: &m, Reason: fmt.Sprintf("another file system lies over it, the %s of %s at %s: unmount that first", shown(lies.kind), shown(lies.source), shown(lies.place))}
}

func unmountOne(ctx context.Context, d Drive, m Mount) error {
	busy := func(why string) error { return &BusyError{Path: d.Path, Mount: &m, Reason: why} }
	inUse := fmt.Sprintf("a program uses it, `lsof +f -- %s` shows which", quoted(m.Place))
	if os.Geteuid() != 0 {
		var texts []string
		for _, command := range [][]string{
			{"udisksctl", "unmount", "--no-user-interaction", "--block-device", m.Device},
			{"umount", "--", m.Place},
		} {
			out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
			if err == nil || !isMounted(m) {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if strings.Contains(string(out), "busy") {
				return busy(inUse)
			}
			if !errors.Is(err, exec.ErrNotFound) {
				texts = append(texts, printable(string(out)))
			}
		}
		return &PermissionError{Path: d.Path, Remedy: fmt.Sprintf("it is mounted at %s, and may not unmount that: %s", shown(m.Place), strings.Join(append(texts, "sudo umount "+quoted(m.Place)), "; "))}
	}
	since := time.Now()
	for {
		err := unix.Unmount(m.Place, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL) && !isMounted(m), errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EBUSY) && time.Since(since) < patience:
			if err := pause(ctx); err != nil {
				return err
			}
		case errors.Is(err, unix.EBUSY):
			return busy(inUse)
		default:
			return busy(err.Error())
		}
	}
}

// isMounted says whether something is mounted at a mount's place.
func isMounted(m Mount) bool {
	return slices.ContainsFunc(parseMountinfo(text("/proc/self/mountinfo")), func(other mounted) bool { return other.place == m.Place })
}

func (l linux) swapoff(d Drive) error {
	t, err := l.table()
	if err != nil {
		return err
	}
	b := t.number[d.Number]
	if b == nil {
		return nil // its opening will say so
	}
	for _, part := range append([]*block{b}, b.parts...) {
		if !t.swaps[part.name] {
			continue
		}
		name, err := unix.BytePtrFromString(part.plain())
		if err != nil {
			return err
		}
		if err := swapoff(name); err != nil {
			return &BusyError{Path: d.Path, Reason: fmt.Sprintf("swap on %s cannot be ended (%v): swapoff %s", part.plain(), err, part.plain())}
		}
	}
	return nil
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}

// quoted is a word of a shell's command.
func quoted(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(shown(word), "'", `'\''`) + "'"
}
