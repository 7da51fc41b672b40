package clock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// SetTime sets the system's clock; it takes CAP_SYS_TIME. The kernel takes the
// clock for unsynchronized from then on, until time servers are heard again.
func SetTime(t time.Time) error {
	spec, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("this kernel's clock does not reach %s: %w", t.Format(time.RFC3339), err)
	}
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &spec); err != nil {
		return fmt.Errorf("clock_settime: %w", err)
	}
	return nil
}

// Synchronized says whether the kernel knows its clock to be kept by time
// servers: adjtimex(2)'s STA_UNSYNC is off.
func Synchronized() (bool, error) {
	var state unix.Timex
	if _, err := unix.Adjtimex(&state); err != nil {
		return false, fmt.Errorf("adjtimex: %w", err)
	}
	return state.Status&unix.STA_UNSYNC == 0, nil
}
