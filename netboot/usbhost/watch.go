package usbhost

import (
	"context"
	"slices"
	"time"
)

const (
	pollBehind = time.Second            // behind uevents
	pollAlone  = 250 * time.Millisecond // without them
)

// Watch lists the devices now and whenever they change, until ctx ends; the channel
// is closed then. A list that was not taken is replaced by the next: what is in a
// list by path and address is attached, what is not in it is not.
func (h *Host) Watch(ctx context.Context) <-chan []Device {
	lists := make(chan []Device, 1)
	go func() {
		defer close(lists)
		h.watch(ctx, lists)
	}()
	return lists
}

func (h *Host) watch(ctx context.Context, lists chan []Device) {
	listen := h.Uevents
	if listen == nil {
		listen = KernelUevents
	}
	// Listened to before the first list, so that no change falls in between.
	words, err := listen(ctx)
	if err != nil {
		h.log().Warn("no uevents: the USB bus is polled instead", "error", err)
	}
	interval := func() time.Duration {
		switch {
		case h.Poll > 0:
			return h.Poll
		case words == nil:
			return pollAlone
		}
		return pollBehind
	}
	var last []Device
	var failed string
	first := true
	for {
		devices, err := h.Devices()
		switch {
		case err != nil:
			if err.Error() != failed {
				failed = err.Error()
				h.log().Warn("the USB bus cannot be listed", "error", err)
			}
		case first || !slices.Equal(devices, last):
			first, failed, last = false, "", devices
			select {
			case <-lists: // not taken: the new list stands for both
			default:
			}
			// There is room: nobody else puts anything in.
			lists <- slices.Clone(devices)
		}
		timer := time.NewTimer(interval())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case _, ok := <-words:
			if !ok {
				words = nil
				if ctx.Err() == nil {
					h.log().Warn("the kernel sends no more uevents: the USB bus is polled instead")
				}
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}
