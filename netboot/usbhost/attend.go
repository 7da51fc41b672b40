package usbhost

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"hatchery/netboot/usbboot"
)

const (
	againAfter = 2 * time.Second  // a board that is still there though it was served
	againMost  = 30 * time.Second // the longest such pause
)

// Attend has every board that waits for its files served, all at once: serve is
// called in a goroutine of its own for each attachment. Its context ends, with the
// cause [usbboot.ErrGone], when the device has left. A board that is still attached
// after serve came back is served again after a pause, which grows: it may have
// changed its stage without the host noticing, or it asks once more after something
// went wrong. Attend returns when ctx has ended and every serve has come back.
//
// Other devices are told by seen, which is called with each list of all devices, in
// order, and may be nil.
func (h *Host) Attend(ctx context.Context, seen func([]Device), serve func(ctx context.Context, d Device)) {
	type attachment struct {
		device Device
		cancel context.CancelCauseFunc
	}
	var attached []attachment
	var serving sync.WaitGroup
	defer serving.Wait()
	for devices := range h.Watch(ctx) {
		if seen != nil {
			seen(devices)
		}
		var still []attachment
		for _, a := range attached {
			if index(devices, a.device) >= 0 {
				still = append(still, a)
				continue
			}
			a.cancel(fmt.Errorf("%s: %w", a.device.Path, usbboot.ErrGone))
		}
		attached = still
		for _, d := range devices {
			if !d.Bootable() {
				continue
			}
			if slices.ContainsFunc(attached, func(a attachment) bool { return index(devices, a.device) == index(devices, d) }) {
				continue
			}
			one, cancel := context.WithCancelCause(ctx)
			attached = append(attached, attachment{d, cancel})
			serving.Go(func() {
				for wait := againAfter; ; wait = min(2*wait, againMost) {
					// The list may be older than the device's leaving.
					if now, err := h.Devices(); err != nil || index(now, d) >= 0 {
						serve(one, d)
					}
					timer := time.NewTimer(wait)
					select {
					case <-one.Done():
						timer.Stop()
						return
					case <-timer.C:
					}
				}
			})
		}
	}
	for _, a := range attached {
		a.cancel(context.Cause(ctx))
	}
}

// index finds the same attachment in the same stage.
func index(devices []Device, d Device) int {
	return slices.IndexFunc(devices, func(other Device) bool {
		return d.Same(other) && d.SerialIndex == other.SerialIndex
	})
}
