package usbboot_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
)

func TestBoot(t *testing.T) {
	for _, test := range []struct {
		summary string
		options usbboottest.Options
		config  string
		want    usbboottest.Boot
		ends    []usbboot.End
	}{
		{
			summary: "a Zero",
			want: usbboottest.Boot{Start: "start.elf", Fixup: "fixup.dat", Kernel: "kernel.img", Initramfs: "hatchery-initramfs.img",
				DTB: "bcm2708-rpi-zero.dtb", Overlays: []string{"overlays/dwc2.dtbo"}},
		},
		{
			summary: "a Zero W with the firmware of 2017 that attaches three times",
			options: usbboottest.Options{Model: usbboottest.ZeroW, Order: usbboottest.Early, Split: true},
			want: usbboottest.Boot{Start: "start.elf", Fixup: "fixup.dat", Kernel: "kernel.img", Initramfs: "hatchery-initramfs.img",
				DTB: "bcm2708-rpi-zero-w.dtb", Overlays: []string{"overlays/dwc2.dtbo"}},
			ends: []usbboot.End{usbboot.EndBootcode, usbboot.EndLeft, usbboot.EndLeft},
		},
		{
			summary: "a Zero 2 W, with two interfaces, that says when it is done",
			options: usbboottest.Options{Model: usbboottest.Zero2W, Interfaces: 2, Farewell: usbboottest.SayDone},
			config:  "auto_initramfs=1\ndtoverlay=vc4-kms-v3d\n",
			want: usbboottest.Boot{Start: "start.elf", Fixup: "fixup.dat", Kernel: "kernel8.img", Initramfs: "initramfs8",
				DTB: "bcm2710-rpi-zero-2-w.dtb", Overlays: []string{"overlays/vc4-kms-v3d.dtbo"}},
			ends: []usbboot.End{usbboot.EndBootcode, usbboot.EndDone},
		},
		{
			summary: "little memory for the GPU, and an empty name at the end",
			options: usbboottest.Options{Farewell: usbboottest.SayNoName},
			config:  "gpu_mem=16\n[pi4]\nkernel=other.img\n[all]\ndtoverlay=dwc2\n",
			want: usbboottest.Boot{Start: "start_cd.elf", Fixup: "fixup_cd.dat", Kernel: "kernel.img",
				DTB: "bcm2708-rpi-zero.dtb", Overlays: []string{"overlays/dwc2.dtbo"}},
			ends: []usbboot.End{usbboot.EndBootcode, usbboot.EndDone},
		},
		{
			summary: "the camera's firmware, and a host that does not see the boot ROM detach",
			options: usbboottest.Options{Stuck: true},
			config:  "start_x=1\ninclude extra.txt\n",
			want: usbboottest.Boot{Start: "start_x.elf", Fixup: "fixup_x.dat", Kernel: "kernel7.img",
				DTB: "bcm2708-rpi-zero.dtb"},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			extra := map[string]string{"extra.txt": "kernel=kernel7.img\n"}
			if test.config != "" {
				extra["config.txt"] = test.config
			}
			files := partition(extra)
			board := usbboottest.New(test.options)
			results, err := boot(t.Context(), board, files, usbboot.Options{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := board.Booted()
			if err != nil {
				t.Fatal(err)
			}
			got.Missing = nil
			test.want.Done, test.want.Config, test.want.Cmdline = true, "config.txt", "cmdline.txt"
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("what boots (- wanted):\n%s", diff)
			}
			checkReceived(t, board, files)
			if test.ends == nil {
				test.ends = []usbboot.End{usbboot.EndBootcode, usbboot.EndLeft}
			}
			var ends []usbboot.End
			for _, r := range results {
				ends = append(ends, r.End)
			}
			if !slices.Equal(ends, test.ends) {
				t.Errorf("the attachments ended with %v, wanted %v", ends, test.ends)
			}
			// The server's own account agrees with the board's.
			var asked []string
			for _, e := range transcript(results) {
				if e.Command != usbboot.Done {
					asked = append(asked, usbboottest.Request{Command: e.Command, Name: e.Name, Size: int(e.Size)}.String())
				}
			}
			var want []string
			for _, r := range board.Requests() {
				want = append(want, r.String())
			}
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Errorf("the transcript (- as the board has it):\n%s", diff)
			}
			for _, e := range transcript(results) {
				if e.Whole() && e.SHA256 != sha256.Sum256(files[e.Name]) {
					t.Errorf("%s has the digest %x in the transcript", e.Name, e.SHA256)
				}
			}
		})
	}
}

// The order of the questions is what real boards were logged with: raspberrypi/usbboot
// issues 13 (which shows what was read only) and 370, balena-io/etcher pull request
// 1797.
func TestOrder(t *testing.T) {
	t.Run("2017", func(t *testing.T) {
		board := usbboottest.New(usbboottest.Options{Model: usbboottest.ZeroW, Order: usbboottest.Early})
		results, err := boot(t.Context(), board, partition(map[string]string{
			"config.txt": "initramfs hatchery-initramfs.img followkernel\ndtoverlay=dwc2\ndtoverlay=vc4-kms-v3d\n",
		}), usbboot.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{
			"bootcode.bin", "config.txt", "start.elf", "fixup.dat", "config.txt", "config.txt", "cmdline.txt", "kernel.img",
			"hatchery-initramfs.img", "bcm2708-rpi-zero-w.dtb", "config.txt", "overlays/dwc2.dtbo", "overlays/vc4-kms-v3d.dtbo",
		}, transcript(results).Read()); diff != "" {
			t.Errorf("files read (- wanted):\n%s", diff)
		}
	})
	t.Run("recent", func(t *testing.T) {
		board := usbboottest.New(usbboottest.Options{})
		results, err := boot(t.Context(), board, partition(map[string]string{"config.txt": "gpu_mem=16\ndtoverlay=spi\n"}), usbboot.Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := `rom read "bootcode.bin" 52480
files size "autoboot.txt" missing
files size "config.txt" 25
files read "config.txt" 25
files size "recovery.elf" missing
files size "start_cd.elf" 16384
files read "start_cd.elf" 16384
files size "fixup_cd.dat" 512
files read "fixup_cd.dat" 512
files size "recovery.elf" missing
files size "config.txt" 25
files read "config.txt" 25
files size "config.txt" 25
files read "config.txt" 25
files size "dt-blob.bin" missing
files size "recovery.elf" missing
files size "bootcfg.txt" missing
files size "bcm2708-rpi-zero.dtb" 2000
files read "bcm2708-rpi-zero.dtb" 2000
files size "overlays/overlay_map.dtb" 300
files read "overlays/overlay_map.dtb" 300
files size "config.txt" 25
files read "config.txt" 25
files size "overlays/spi.dtbo" missing
files size "overlays/spi-overlay.dtb" missing
files size "overlays/spi.dtb" missing
files size "cmdline.txt" 65
files read "cmdline.txt" 65
files size "kernel.img" 200001
files read "kernel.img" 200001
`
		if diff := cmp.Diff(want, outline(transcript(results))); diff != "" {
			t.Errorf("transcript (- wanted):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"autoboot.txt", "recovery.elf", "dt-blob.bin", "bootcfg.txt",
			"overlays/spi.dtbo", "overlays/spi-overlay.dtb", "overlays/spi.dtb"}, transcript(results).Missing()); diff != "" {
			t.Errorf("missing (- wanted):\n%s", diff)
		}
	})
}

// survives lists the mishaps with which a board boots all the same. Others end the
// attachment, but always with an error, and never later than the limits say.
func survives(m usbboottest.Mishap, d usbboottest.Direction) bool {
	in, out, bulk := d == usbboottest.ControlIn, d == usbboottest.ControlOut, d == usbboottest.BulkOut
	switch m {
	case usbboottest.Stall:
		return true
	case usbboottest.StallHalf:
		return in || bulk || out
	case usbboottest.Short:
		return bulk || out
	case usbboottest.Nothing:
		return in || out
	case usbboottest.Wire, usbboottest.Hang:
		return in
	case usbboottest.WrongStatus, usbboottest.LongName, usbboottest.Escape, usbboottest.Absolute, usbboottest.Backslash, usbboottest.Metadata:
		return true
	}
	return false
}

// TestEveryMishap lets everything go wrong at every transfer of a boot.
func TestEveryMishap(t *testing.T) {
	files := partition(map[string]string{"config.txt": "gpu_mem=16\nkernel=kernel7.img\ndtoverlay=dwc2\n"})
	// Shorter than what is read at once, so that there are not too many transfers.
	files["kernel7.img"] = files["kernel7.img"][:20_000]
	files[usbboot.Bootcode] = files[usbboot.Bootcode][:17_000]

	var clean []usbboottest.Transfer
	board := usbboottest.New(usbboottest.Options{Before: func(_ context.Context, transfer usbboottest.Transfer) error {
		clean = append(clean, transfer)
		return nil
	}})
	if _, err := boot(t.Context(), board, files, usbboot.Options{}); err != nil {
		t.Fatal(err)
	}
	if len(clean) < 50 {
		t.Fatalf("a boot without faults has %d transfers: the test would check next to nothing", len(clean))
	}
	limits := usbboot.Limits{Requests: 500}
	for _, mishap := range usbboottest.Mishaps() {
		t.Run(mishap.String(), func(t *testing.T) {
			for _, at := range clean {
				synctest.Test(t, func(t *testing.T) {
					board := usbboottest.New(usbboottest.Options{Faults: []usbboottest.Fault{{At: at.Number, Mishap: mishap}}})
					defer board.Power(false)
					began := time.Now()
					results, err := boot(t.Context(), board, files, usbboot.Options{Limits: limits})
					fail := func(format string, args ...any) {
						t.Helper()
						t.Errorf("%v at transfer %d (%v, %s): %s\n%s", mishap, at.Number, at.Direction, at.Name, fmt.Sprintf(format, args...), outline(transcript(results)))
					}
					if took := time.Since(began); took > 2*time.Minute {
						fail("it took %v", took)
					}
					if wrong := board.Err(); wrong != nil {
						fail("the server broke the protocol: %v", wrong)
					}
					checkReceived(t, board, files)
					boot, halted := board.Booted()
					last := at.Number == len(clean)
					switch {
					case halted == nil && err != nil && !last:
						fail("it booted %+v, but: %v", boot, err)
					case halted != nil && err == nil && mishap != usbboottest.Gone:
						fail("it did not boot (%v), and there was no error", halted)
					case survives(mishap, at.Direction) && halted != nil && !(mishap == usbboottest.WrongStatus && errors.Is(err, usbboot.ErrBootcode)):
						fail("it did not boot: %v, %v", halted, err)
					case mishap == usbboottest.Gone && err != nil && !errors.Is(err, usbboot.ErrGone):
						fail("the error of a board that left: %v", err)
					case mishap == usbboottest.WireAlways && (!errors.Is(err, usbboot.ErrIO) || time.Since(began) > 10*time.Second):
						fail("a board that only fails was given up after %v: %v", time.Since(began), err)
					case mishap == usbboottest.HangAlways && !errors.Is(err, usbboot.ErrTimeout):
						fail("the error of a board that hangs: %v", err)
					case (mishap == usbboottest.BadCommand || mishap == usbboottest.Forever) && halted != nil && !errors.Is(err, usbboot.ErrProtocol):
						fail("the error of a board that makes no sense: %v", err)
					}
				})
			}
		})
	}
}

// A context that ends ends a transfer that hangs, at once.
func TestCancel(t *testing.T) {
	files := partition(nil)
	for _, at := range []int{1, 2, 4, 9, 10, 12, 40, 60} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			board := usbboottest.New(usbboottest.Options{Faults: []usbboottest.Fault{{At: at, Mishap: usbboottest.HangAlways}}})
			defer board.Power(false)
			reason := errors.New("the slot is switched off")
			began := time.Now()
			var done sync.WaitGroup
			done.Go(func() {
				_, err := boot(ctx, board, files, usbboot.Options{})
				if !errors.Is(err, reason) {
					t.Errorf("transfer %d: error %v, wanted the context's cause", at, err)
				}
				if took := time.Since(began); took != 500*time.Millisecond {
					t.Errorf("transfer %d: it took %v to end", at, took-500*time.Millisecond)
				}
			})
			time.Sleep(500 * time.Millisecond)
			cancel(reason)
			done.Wait()
		})
	}
}

// Who watches the bus may know before the transport does that a device has left.
func TestContextSaysThatTheDeviceLeft(t *testing.T) {
	files := partition(nil)
	for _, test := range []struct {
		summary string
		at      int
		end     usbboot.End
	}{
		{"before the boot ROM's status", 8, usbboot.EndBootcode},
		{"between two questions", 11, usbboot.EndLeft},
		{"within bootcode.bin", 5, usbboot.EndFailed},
	} {
		t.Run(test.summary, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				board := usbboottest.New(usbboottest.Options{Faults: []usbboottest.Fault{{At: test.at, Mishap: usbboottest.HangAlways}}})
				defer board.Power(false)
				time.AfterFunc(time.Second, func() { cancel(fmt.Errorf("1-1.4: %w", usbboot.ErrGone)) })
				var last usbboot.Result
				_, err := board.Boot(ctx, func(ctx context.Context, d usbboot.Device) (usbboot.Result, error) {
					var err error
					last, err = usbboot.Serve(ctx, d, files, usbboot.Options{})
					return last, err
				})
				if last.End != test.end {
					t.Errorf("the attachment ended with %v: %v\n%s", last.End, err, outline(last.Transcript))
				}
				if test.end == usbboot.EndFailed && !errors.Is(err, usbboot.ErrGone) {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

// Four boards are served at once: every transfer waits until each board that still
// boots has one under way.
func TestBoardsSideBySide(t *testing.T) {
	const boards = 4
	var mu sync.Mutex
	waiting, booting := 0, boards
	gate := make(chan struct{})
	open := func() { // with mu held
		if waiting == booting && waiting > 0 {
			waiting = 0
			close(gate)
			gate = make(chan struct{})
		}
	}
	meet := func(ctx context.Context, _ usbboottest.Transfer) error {
		mu.Lock()
		waiting++
		mine := gate
		open()
		mu.Unlock()
		select {
		case <-mine:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range boards {
		all.Go(func() {
			defer func() {
				mu.Lock()
				booting--
				open()
				mu.Unlock()
			}()
			files := partition(map[string]string{"cmdline.txt": fmt.Sprintf("hatchery.slot=%d", i+1)})
			board := usbboottest.New(usbboottest.Options{Before: meet})
			if _, err := boot(ctx, board, files, usbboot.Options{}); err != nil {
				t.Errorf("board %d: %v", i+1, err)
			}
			if _, err := board.Booted(); err != nil {
				t.Errorf("board %d: %v", i+1, err)
			}
			checkReceived(t, board, files)
		})
	}
	all.Wait()
}

// strict gives files in pieces and remembers how large they were.
type strict struct {
	usbboottest.Files
	mu      sync.Mutex
	largest int
	open    int
}

type counting struct {
	content []byte
	of      *strict
}

func (c counting) ReadAt(p []byte, off int64) (int, error) {
	c.of.mu.Lock()
	c.of.largest = max(c.of.largest, len(p))
	c.of.mu.Unlock()
	n := copy(p, c.content[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *strict) Open(name string) (*io.SectionReader, error) {
	content, ok := s.Files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	s.open++
	return io.NewSectionReader(counting{content, s}, 0, int64(len(content))), nil
}

func TestFilesAreStreamed(t *testing.T) {
	files := &strict{Files: partition(nil)}
	files.Files["kernel.img"] = make([]byte, 5<<20)
	board := usbboottest.New(usbboottest.Options{})
	results, err := boot(t.Context(), board, files, usbboot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if files.largest == 0 || files.largest > 64<<10 {
		t.Errorf("%d bytes of a file were read at once", files.largest)
	}
	// The answer to the size and the content come from one opening.
	if read := len(transcript(results).Read()); files.open != read {
		t.Errorf("files were opened %d times for %d that were read", files.open, read)
	}
	checkReceived(t, board, files.Files)
}

// broken fails to give one file, in one way or another.
type broken struct {
	usbboottest.Files
	name string
	err  error // of Open; nil: the content is shorter than its size
}

func (b broken) Open(name string) (*io.SectionReader, error) {
	if name != b.name {
		return b.Files.Open(name)
	}
	if b.err != nil {
		return nil, b.err
	}
	return io.NewSectionReader(strings.NewReader("short"), 0, 70_000), nil
}

func TestFilesThatFail(t *testing.T) {
	lost := errors.New("the layer cannot be read")
	for _, test := range []struct {
		summary string
		files   usbboot.Files
		want    error
		text    string
	}{
		{"no bootcode.bin", broken{partition(nil), usbboot.Bootcode, fs.ErrNotExist}, fs.ErrNotExist, "bootcode.bin"},
		{"bootcode.bin cannot be read", broken{partition(nil), usbboot.Bootcode, lost}, lost, "bootcode.bin"},
		{"bootcode.bin is empty", usbboottest.Files{usbboot.Bootcode: nil}, nil, "0 bytes"},
		{"a file cannot be opened", broken{partition(nil), "kernel.img", lost}, lost, `"kernel.img"`},
		{"a file ends before its size", broken{partition(nil), "kernel.img", nil}, io.ErrUnexpectedEOF, `"kernel.img", after 0 of 70000`},
		{"a folder", broken{partition(nil), "autoboot.txt", fs.ErrInvalid}, nil, ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			board := usbboottest.New(usbboottest.Options{})
			_, err := boot(t.Context(), board, test.files, usbboot.Options{})
			switch {
			case test.want == nil && test.text == "":
				if err != nil {
					t.Error(err)
				}
			case err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text):
				t.Errorf("error %v, wanted %v with %q", err, test.want, test.text)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board := usbboottest.New(usbboottest.Options{
			Faults: []usbboottest.Fault{
				{Mishap: usbboottest.Stall, When: func(t usbboottest.Transfer) bool {
					return t.Name == "kernel.img" && t.Direction == usbboottest.BulkOut
				}},
				{Mishap: usbboottest.Escape},
			},
			Before: func(context.Context, usbboottest.Transfer) error { time.Sleep(time.Millisecond); return nil },
		})
		var lines []string
		var last usbboot.Event
		files := partition(map[string]string{"config.txt": "\n"})
		files["kernel.img"] = make([]byte, 600_000)
		_, err := boot(t.Context(), board, files, usbboot.Options{Told: func(e usbboot.Event) {
			if e.At.Before(last.At) {
				t.Errorf("%v at %v, after %v", e.Kind, e.At, last.At)
			}
			if e.Stage == last.Stage && e.Sum < last.Sum {
				t.Errorf("the sum fell from %d to %d", last.Sum, e.Sum)
			}
			last = e
			line := fmt.Sprintf("%v %v %s %d/%d", e.Stage, e.Kind, e.Name, e.Bytes, e.Total)
			if e.Err != nil {
				line += " " + e.Err.Error()
			}
			if e.Stage == usbboot.StageROM || e.Name == "kernel.img" || e.Name == "start.elf" || e.Name == "" || e.Err != nil {
				lines = append(lines, line)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"rom began  0/0",
			"rom sending bootcode.bin 0/52480",
			"rom sent bootcode.bin 52480/52480",
			"rom finished  0/0",
			"files began  0/0",
			"files sending start.elf 0/300000",
			"files sending start.elf 262144/300000",
			"files sent start.elf 300000/300000",
			"files sending kernel.img 0/600000",
			"files retried  0/0 the device refused the transfer (stall)",
			"files sending kernel.img 262144/600000",
			"files sending kernel.img 524288/600000",
			"files sent kernel.img 600000/600000",
			"files refused ../../etc/shadow 0/0 it leads out of the boot partition",
			"files finished  0/0",
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("events (- wanted):\n%s", diff)
		}
	})
}

// A board that takes bootcode.bin and comes back as a boot ROM is given it again,
// and counted.
func TestPortCountsRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var port usbboot.Port
		files := partition(nil)
		for round := 1; round <= 3; round++ {
			board := usbboottest.New(usbboottest.Options{})
			defer board.Power(false)
			board.Power(true)
			_, device, err := board.Attachment(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			result, err := port.Serve(t.Context(), device, files, usbboot.Options{})
			if err != nil || result.End != usbboot.EndBootcode {
				t.Fatalf("round %d: %v, %v", round, result.End, err)
			}
			if err := board.Err(); err != nil {
				t.Error(err)
			}
			if port.Rounds() != round {
				t.Errorf("round %d was counted as %d", round, port.Rounds())
			}
			time.Sleep(time.Second)
		}
		port.Forget()
		if port.Rounds() != 0 {
			t.Errorf("after Forget: %d rounds", port.Rounds())
		}
		board := usbboottest.New(usbboottest.Options{})
		if _, err := board.Boot(t.Context(), func(ctx context.Context, d usbboot.Device) (usbboot.Result, error) {
			return port.Serve(ctx, d, files, usbboot.Options{})
		}); err != nil {
			t.Fatal(err)
		}
		if port.Rounds() != 0 {
			t.Errorf("after a board that asked for files: %d rounds", port.Rounds())
		}
	})
}
