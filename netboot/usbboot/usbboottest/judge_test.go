package usbboottest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
)

// host speaks the protocol by hand, as a server would, and stops at the first
// refusal.
type host struct {
	t       *testing.T
	ctx     context.Context
	board   *usbboottest.Board
	device  usbboot.Device
	number  int
	refused error
}

func newHost(t *testing.T, o usbboottest.Options) *host {
	h := &host{t: t, ctx: t.Context(), board: usbboottest.New(o)}
	h.board.Power(true)
	t.Cleanup(func() { h.board.Power(false) })
	h.attach()
	return h
}

func (h *host) attach() {
	h.t.Helper()
	var err error
	if h.number, h.device, err = h.board.Attachment(h.ctx, h.number); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) control(requestType, request uint8, length int, data []byte) (n int) {
	if h.refused == nil {
		n, h.refused = h.device.Transport.Control(h.ctx, requestType, request, uint16(length), uint16(length>>16), data, time.Second)
	}
	return n
}

func (h *host) announce(length int) { h.control(0x40, 0, length, nil) }

func (h *host) bulk(endpoint uint8, data []byte) {
	if h.refused == nil {
		_, h.refused = h.device.Transport.BulkOut(h.ctx, endpoint, data, time.Second)
	}
}

func (h *host) send(data []byte) {
	h.announce(len(data))
	for len(data) > 0 && h.refused == nil {
		n := min(len(data), 16384)
		h.bulk(1, data[:n])
		data = data[n:]
	}
}

func (h *host) question() (command uint32, name string) {
	m := make([]byte, 260)
	h.control(0xc0, 0, 260, m)
	text, _, _ := bytes.Cut(m[4:], []byte{0})
	return binary.LittleEndian.Uint32(m), string(text)
}

func (h *host) bootcode(content []byte) {
	header := make([]byte, 24)
	binary.LittleEndian.PutUint32(header, uint32(len(content)))
	h.send(header)
	h.send(content)
	status := []byte{1, 1, 1, 1}
	h.control(0xc0, 0, 4, status)
	if h.refused == nil && !bytes.Equal(status, make([]byte, 4)) {
		h.t.Errorf("status %x", status)
	}
}

func TestJudgeLetsTheProtocolPass(t *testing.T) {
	h := newHost(t, usbboottest.Options{})
	h.bootcode(make([]byte, 20_000))
	h.attach()
	if h.device.Stage != usbboot.StageFiles {
		t.Fatalf("after bootcode.bin: stage %v", h.device.Stage)
	}
	var asked []string
	for h.refused == nil && len(asked) < 8 {
		command, name := h.question()
		asked = append(asked, name)
		switch {
		case name == "config.txt" && command == 0:
			h.announce(10)
		case name == "config.txt" && command == 1:
			h.send([]byte("gpu_mem=16"))
		default:
			h.announce(0)
		}
		if name == "start_cd.elf" {
			break
		}
	}
	if got, want := strings.Join(asked, " "), "autoboot.txt config.txt config.txt recovery.elf start_cd.elf"; got != want || h.refused != nil {
		t.Errorf("asked for %s (%v), wanted %s", got, h.refused, want)
	}
	if err := h.board.Err(); err != nil {
		t.Error(err)
	}
	if got := h.board.Received()["config.txt"]; string(got) != "gpu_mem=16" {
		t.Errorf("config.txt arrived as %q", got)
	}
}

func TestJudgeRefuses(t *testing.T) {
	rom := func(t *testing.T) *host { return newHost(t, usbboottest.Options{}) }
	files := func(t *testing.T) *host {
		h := rom(t)
		h.bootcode(make([]byte, 100))
		h.attach()
		return h
	}
	for _, test := range []struct {
		summary string
		start   func(*testing.T) *host
		play    func(h *host)
		want    string
	}{
		{"a header of another length", rom, func(h *host) { h.announce(23) }, "announced with 23"},
		{"a header that was not announced", rom, func(h *host) { h.bulk(1, make([]byte, 24)) }, "not announced"},
		{"a header with a signature", rom, func(h *host) { h.send(bytes.Repeat([]byte{1}, 24)) }, "header is 0101"},
		{"a big-endian header", rom, func(h *host) {
			h.send(append([]byte{0, 0, 0, 200}, make([]byte, 20)...))
			h.announce(200)
		}, "announced with 200 bytes, its header says"},
		{"bootcode.bin of another length than its header's", rom, func(h *host) {
			h.send(append([]byte{200, 0, 0, 0}, make([]byte, 20)...))
			h.announce(201)
		}, "announced with 201 bytes, its header says 200"},
		{"a status that is fetched early", rom, func(h *host) { h.control(0xc0, 0, 4, make([]byte, 4)) }, "nothing to say"},
		{"a status of another length", rom, func(h *host) {
			h.send(append([]byte{1, 0, 0, 0}, make([]byte, 20)...))
			h.send([]byte{9})
			h.control(0xc0, 0, 8, make([]byte, 8))
		}, "status of 8 bytes"},
		{"another endpoint", rom, func(h *host) { h.announce(24); h.bulk(3, make([]byte, 24)) }, "endpoint 3, where 1"},
		{"more data than announced", rom, func(h *host) { h.announce(24); h.bulk(1, make([]byte, 25)) }, "25 bytes of data, where 24"},
		{"no data", rom, func(h *host) { h.announce(24); h.bulk(1, nil) }, "0 bytes of data"},
		{"a transfer that is too long", files, func(h *host) {
			h.question()
			h.announce(0)
			h.question()
			h.announce(30_000)
			h.question()
			h.announce(30_000)
			h.bulk(1, make([]byte, 20_000))
		}, "20000 bytes in one transfer"},
		{"an announcement that nobody asked for", files, func(h *host) { h.announce(5) }, "waits for something else"},
		{"a size announced twice", files, func(h *host) { h.question(); h.announce(5); h.announce(5) }, "waits for something else"},
		{"data for a size", files, func(h *host) { h.question(); h.announce(5); h.bulk(1, make([]byte, 5)) }, "not announced"},
		{"a file of another length than its size", files, func(h *host) {
			h.question() // autoboot.txt
			h.announce(0)
			h.question()
			h.announce(100)
			h.question()
			h.announce(101)
		}, "config.txt was announced with 101 bytes, its size was said to be 100"},
		{"a question while one is open", files, func(h *host) { h.question(); h.question() }, "nothing to say"},
		{"a question of another length", files, func(h *host) { h.control(0xc0, 0, 256, make([]byte, 256)) }, "question of 256"},
		{"a length that is not the buffer's", files, func(h *host) { h.control(0xc0, 0, 260, make([]byte, 256)) }, "256 bytes that announces 260"},
		{"another request", files, func(h *host) { h.control(0x40, 1, 0, nil) }, "control request 1"},
		{"another type", files, func(h *host) { h.control(0x21, 0, 0, nil) }, "type 0x21"},
		{"an announcement with data", files, func(h *host) { h.control(0x40, 0, 3, make([]byte, 3)) }, "with 3 bytes of data"},
		{"no deadline", files, func(h *host) {
			_, h.refused = h.device.Transport.Control(h.ctx, 0xc0, 0, 260, 0, make([]byte, 260), 0)
			h.refused = usbboot.ErrStall
		}, "no deadline"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			h := test.start(t)
			if err := h.board.Err(); err != nil || h.refused != nil {
				t.Fatalf("before the mistake: %v, %v", err, h.refused)
			}
			test.play(h)
			if err := h.board.Err(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the judge says %v, wanted %q", err, test.want)
			}
		})
	}
}

func TestOldAttachmentIsGone(t *testing.T) {
	h := newHost(t, usbboottest.Options{})
	old := h.device.Transport
	h.bootcode(make([]byte, 100))
	h.attach()
	if _, err := old.Control(t.Context(), 0x40, 0, 0, 0, nil, time.Second); !errors.Is(err, usbboot.ErrGone) {
		t.Errorf("error %v", err)
	}
	if err := old.ClearHalt(1); !errors.Is(err, usbboot.ErrGone) {
		t.Errorf("error %v", err)
	}
}

// Firmware that does not find what it needs halts, and says why.
func TestHalts(t *testing.T) {
	whole := map[string]int{"bootcode.bin": 10, "start.elf": 10, "fixup.dat": 10, "kernel.img": 10, "bcm2708-rpi-zero.dtb": 10}
	for _, test := range []struct{ summary, missing, config, want string }{
		{"no start.elf", "start.elf", "\n", "start.elf"},
		{"no start_cd.elf", "", "gpu_mem=16\n", "start_cd.elf"},
		{"no kernel", "kernel.img", "\n", "kernel.img"},
		{"no kernel of that name", "", "kernel=vmlinuz\n", "vmlinuz"},
		{"a line that is cut off", "", "kernel=" + strings.Repeat("k", 95) + "\n", strings.Repeat("k", 91)},
		{"another board's line", "", "[pi02]\nkernel=vmlinuz\n", ""},
		{"no device tree", "bcm2708-rpi-zero.dtb", "\n", ""},
		{"no fixup", "fixup.dat", "\n", ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			files := usbboottest.Partition(1, whole, map[string]string{"config.txt": test.config})
			delete(files, test.missing)
			board := usbboottest.New(usbboottest.Options{})
			defer board.Power(false)
			board.Boot(t.Context(), func(ctx context.Context, d usbboot.Device) (usbboot.Result, error) {
				return usbboot.Serve(ctx, d, files, usbboot.Options{Limits: usbboot.Limits{Idle: 10 * time.Millisecond}})
			})
			_, err := board.Booted()
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), "halted") || !strings.Contains(err.Error(), test.want+" ")):
				t.Errorf("%v, wanted one about %s", err, test.want)
			}
			if err := board.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}
