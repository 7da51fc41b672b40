package netspace

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"hatchery/internal/testtool"
)

// networkd runs systemd-networkd with a root's configuration. With /sys read-only it
// knows that no udev runs: links have their names from the start.
const networkd = `
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd
mount -t sysfs -o ro sysfs /sys
mount --bind "$0/etc/systemd" /etc/systemd
mount --bind "$0/etc/machine-id" /etc/machine-id
mount --bind "$1" /run/systemd
exec /lib/systemd/systemd-networkd
`

// Networkd are the words of a command that runs systemd-networkd, in the namespace
// where it is started, with the configuration below root. What it says of the links is in
// the folder run, which is made, as in /run/systemd.
func Networkd(t testing.TB, root, run string) []string {
	t.Helper()
	if _, err := os.Stat("/lib/systemd/systemd-networkd"); err != nil {
		testtool.Missing(t, err.Error())
	}
	if err := os.MkdirAll(run, 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"unshare", "-m", "sh", "-euc", networkd, root, run}
}

// avahi runs Avahi with the configuration that Debian and Raspberry Pi OS have, and a
// D-Bus for it.
const avahi = `
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus
hostname "$0"
dbus-daemon --system --nofork --nopidfile --nosyslog &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
exec avahi-daemon --no-rlimits
`

// Avahi are the words of a command that runs avahi-daemon under a host name, in the
// namespace where it is started. Its process is a place where avahi-resolve works: see
// InMountsOf.
func Avahi(t testing.TB, hostname string) []string {
	t.Helper()
	for _, tool := range []string{"avahi-daemon", "avahi-resolve", "dbus-daemon"} {
		testtool.Need(t, tool)
	}
	return []string{"unshare", "-m", "--uts", "sh", "-euc", avahi, hostname}
}

// InMountsOf are the words of a command that is run with the mounts of a process.
func InMountsOf(pid int, words ...string) []string {
	return append([]string{"nsenter", "--mount=" + filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"), "--"}, words...)
}
