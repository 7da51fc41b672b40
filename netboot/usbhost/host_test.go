package usbhost_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbhost"
)

func TestDevices(t *testing.T) {
	m := newMachine(t)
	want := []usbhost.Device{
		rootHub("1-1", 2),
		hatHub("1-1.4", 3),
		hatHub("1-1.4.1", 9), // a hub on a hub
		board("1-1.4.1.3", 10, 0),
		board("1-1.4.4", 4, 1),
		{Path: "2-1", Bus: 2, Address: 2, Vendor: 0x0a5c, Product: 0x2764, SerialIndex: 3, Interfaces: 2},
	}
	for _, d := range want {
		m.plug(d)
	}
	// What sysfs has besides, and what it has when things go wrong.
	m.plug(usbhost.Device{Path: "usb1", Address: 1, Vendor: 0x1d6b, Product: 2, Class: 9, Interfaces: 1, Ports: 1})
	m.mkdir("sys/bus/usb/devices/1-1.2:1.0")
	m.mkdir("sys/bus/usb/devices/1-1.1") // leaving: no attributes any more
	m.mkdir("sys/bus/usb/devices/1-")
	m.mkdir("sys/bus/usb/devices/-1")
	m.mkdir("sys/bus/usb/devices/1-0.1")
	m.mkdir("sys/bus/usb/devices/garbage")
	for name, content := range map[string]string{"1-1.3": "", "1-2": "\x12\x01", "1-3": strings.Repeat("\xff", 100_000)} {
		m.write("sys/bus/usb/devices/"+name+"/descriptors", content)
		m.write("sys/bus/usb/devices/"+name+"/busnum", "1\n")
		m.write("sys/bus/usb/devices/"+name+"/devnum", "7\n")
	}
	broken := board("1-4", 8, 0)
	m.write("sys/bus/usb/devices/1-4/descriptors", string(describe(broken)))
	m.write("sys/bus/usb/devices/1-4/busnum", "one\n")
	m.write("sys/bus/usb/devices/1-4/devnum", "99999999999999999999\n")

	got, err := m.host().Devices()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (- wanted):\n%s", diff)
	}
	for _, test := range []struct {
		path     string
		bootable bool
		stage    usbboot.Stage
		hub      bool
	}{
		{"1-1.4", false, 0, true},
		{"1-1.4.1.3", true, usbboot.StageROM, false},
		{"1-1.4.4", true, usbboot.StageFiles, false},
		{"2-1", true, usbboot.StageROM, false},
	} {
		for _, d := range got {
			if d.Path == test.path && (d.Bootable() != test.bootable || d.Hub() != test.hub || test.bootable && d.Stage() != test.stage) {
				t.Errorf("%v: bootable %v, hub %v, stage %v", d, d.Bootable(), d.Hub(), d.Stage())
			}
		}
	}
}

func TestUnconfiguredDevice(t *testing.T) {
	m := newMachine(t)
	d := board("1-1", 5, 0)
	d.Interfaces = 2
	d.Name = "evil\x1b[2J name\xff"
	m.plug(d)
	m.write("sys/devices/usb/1-1/bNumInterfaces", "\n")
	got, err := m.host().Devices()
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if got[0].Interfaces != 2 {
		t.Errorf("%d interfaces, the descriptors say 2", got[0].Interfaces)
	}
	if got[0].Name != "evil[2J name" {
		t.Errorf("the name is %q", got[0].Name)
	}
}

func TestNoUSB(t *testing.T) {
	got, err := (&usbhost.Host{Sys: t.TempDir()}).Devices()
	if err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// outlineOf is a list of devices in short.
func outlineOf(devices []usbhost.Device) string {
	var words []string
	for _, d := range devices {
		words = append(words, fmt.Sprintf("%s#%d", d.Path, d.Address))
	}
	return strings.Join(words, " ")
}

// until takes lists until one is as wanted.
func until(t *testing.T, lists <-chan []usbhost.Device, want string) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	last := "none"
	for {
		select {
		case devices, ok := <-lists:
			if !ok {
				t.Fatalf("the watch ended; the last list was %s, wanted %s", last, want)
			}
			if last = outlineOf(devices); last == want {
				return
			}
		case <-timeout:
			t.Fatalf("the last list was %s, wanted %s", last, want)
		}
	}
}

func TestWatch(t *testing.T) {
	for _, test := range []struct {
		summary string
		poll    time.Duration
		uevents bool
	}{
		{"by the poll alone", 5 * time.Millisecond, false},
		{"by uevents alone", time.Hour, true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			m := newMachine(t)
			h := m.host()
			h.Poll = test.poll
			words := make(chan struct{}, 1)
			h.Uevents = func(context.Context) (<-chan struct{}, error) {
				if !test.uevents {
					return nil, os.ErrPermission
				}
				return words, nil
			}
			word := func() {
				if test.uevents {
					words <- struct{}{}
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			lists := h.Watch(ctx)
			until(t, lists, "")
			m.plug(hatHub("1-1", 2))
			m.plug(board("1-1.2", 3, 0))
			word()
			until(t, lists, "1-1#2 1-1.2#3")
			m.unplug("1-1.2")
			m.plug(board("1-1.2", 4, 1))
			word()
			until(t, lists, "1-1#2 1-1.2#4")
			m.unplug("1-1.2")
			word()
			until(t, lists, "1-1#2")
			cancel()
			for range lists {
			}
		})
	}
}

// Lists that nobody takes are replaced: the last is what is there.
func TestWatchKeepsTheLastList(t *testing.T) {
	m := newMachine(t)
	h := m.host()
	h.Poll = time.Hour
	words := make(chan struct{})
	h.Uevents = func(context.Context) (<-chan struct{}, error) { return words, nil }
	lists := h.Watch(t.Context())
	for address := 2; address < 10; address++ {
		m.plug(board("1-1", address, 0))
		words <- struct{}{}
	}
	words <- struct{}{} // taken when the list before it is out
	if got := outlineOf(<-lists); got != "1-1#9" {
		t.Errorf("the list is %s", got)
	}
}

func TestAttend(t *testing.T) {
	m := newMachine(t)
	h := m.host()
	h.Poll = time.Hour
	words := make(chan struct{})
	h.Uevents = func(context.Context) (<-chan struct{}, error) { return words, nil }
	ctx, cancel := context.WithCancelCause(t.Context())

	var mu sync.Mutex
	var log []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprintf(format, args...))
	}
	// Every board is served until it leaves, so that only a host that serves all at
	// once sees them all begin.
	began := make(chan string)
	ended := make(chan string)
	seen := make(chan string, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Attend(ctx, func(devices []usbhost.Device) { seen <- outlineOf(devices) }, func(ctx context.Context, d usbhost.Device) {
			began <- fmt.Sprintf("%s#%d", d.Path, d.Address)
			<-ctx.Done()
			note("%s#%d: %v", d.Path, d.Address, context.Cause(ctx))
			ended <- d.Path
		})
	}()
	expect := func(from <-chan string, want ...string) {
		t.Helper()
		got := map[string]bool{}
		timeout := time.After(30 * time.Second)
		for range want {
			select {
			case s := <-from:
				got[s] = true
			case <-timeout:
				t.Fatalf("got %v, wanted %v", got, want)
			}
		}
		for _, w := range want {
			if !got[w] {
				t.Fatalf("got %v, wanted %v", got, want)
			}
		}
	}
	expect(seen, "")
	m.plug(hatHub("1-1", 2))
	for port := 1; port <= 4; port++ {
		m.plug(board(fmt.Sprintf("1-1.%d", port), 2+port, 0))
	}
	m.plug(gadget("1-2", 9, 1))
	words <- struct{}{}
	expect(began, "1-1.1#3", "1-1.2#4", "1-1.3#5", "1-1.4#6")
	expect(seen, "1-1#2 1-1.1#3 1-1.2#4 1-1.3#5 1-1.4#6 1-2#9")

	// One attaches anew, one leaves; the others go on.
	m.unplug("1-1.2")
	m.plug(board("1-1.2", 10, 1))
	m.unplug("1-1.4")
	words <- struct{}{}
	expect(ended, "1-1.2", "1-1.4")
	expect(began, "1-1.2#10")

	cancel(os.ErrDeadlineExceeded)
	expect(ended, "1-1.1", "1-1.2", "1-1.3")
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("Attend did not come back")
	}
	gone := 0
	for _, line := range log {
		if strings.Contains(line, usbboot.ErrGone.Error()) {
			gone++
		}
	}
	if gone != 2 || len(log) != 5 {
		t.Errorf("the servings ended with:\n%s", strings.Join(log, "\n"))
	}
}

func TestRivals(t *testing.T) {
	m := newMachine(t)
	m.write("proc/1/comm", "systemd\n")
	m.write("proc/1/cmdline", "/sbin/init\x00")
	m.write("proc/812/comm", "rpiboot\n")
	m.write("proc/812/cmdline", "/usr/bin/rpiboot\x00-m\x002000\x00-d\x00/var/lib/clusterctrl/boot/\x00")
	m.write("proc/900/comm", "python3\n")
	m.write("proc/900/cmdline", "python3\x00rpiboot-notes.txt\x00")
	m.write("proc/901/comm", "renamed\n")
	m.write("proc/901/cmdline", "./rpiboot\x00\x1b[31m\x00")
	m.mkdir("proc/902") // has ended
	m.write("proc/903/comm", "rpiboot\n")
	m.write("proc/903/cmdline", "/lib/ld-linux.so\x00/usr/bin/rpiboot\x00")
	m.write("proc/uptime", "1 1\n")
	got, err := m.host().Rivals()
	if err != nil {
		t.Fatal(err)
	}
	want := []usbhost.Process{{PID: 812, Command: "/usr/bin/rpiboot -m 2000 -d /var/lib/clusterctrl/boot/"}, {PID: 901, Command: "./rpiboot [31m"}, {PID: 903, Command: "/lib/ld-linux.so /usr/bin/rpiboot"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rivals (- wanted):\n%s", diff)
	}
	if _, err := (&usbhost.Host{Proc: filepath.Join(m.root, "nothing")}).Rivals(); err == nil {
		t.Error("a /proc that is not there has no rivals")
	}
}

func TestBusyError(t *testing.T) {
	for _, test := range []struct {
		summary string
		holders []usbhost.Process
		want    string
	}{
		{"nobody to be seen", nil, "1-1.4: another program holds the device"},
		{"rpiboot", []usbhost.Process{{PID: 812, Command: "/usr/bin/rpiboot -l"}}, "systemctl disable --now clusterctrl-rpiboot"},
		{"another", []usbhost.Process{{PID: 7, Command: "qemu"}}, "qemu (process 7); end it"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			err := &usbhost.BusyError{Path: "1-1.4", Holders: test.holders}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, wanted %q", err, test.want)
			}
		})
	}
}
