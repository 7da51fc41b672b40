package systemd

import (
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready tells systemd that the service runs. It and the others do nothing
// where no NOTIFY_SOCKET is set.
func Ready() error { return notify(daemon.SdNotifyReady) }

// Stopping tells systemd that the service ends.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

// Alive tells systemd's watchdog that all is well.
func Alive() error { return notify(daemon.SdNotifyWatchdog) }

// Status is shown by systemctl status, one line.
func Status(line string) error {
	return notify("STATUS=" + strings.Join(strings.Fields(line), " "))
}

func notify(what string) error {
	_, err := daemon.SdNotify(false, what)
	return err
}

// Watchdog is how often Alive is to be called: half of the unit's
// WatchdogSec=, 0 where there is none for this process.
func Watchdog() (time.Duration, error) {
	d, err := daemon.SdWatchdogEnabled(false)
	return d / 2, err
}
