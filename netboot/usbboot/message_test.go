package usbboot_test

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"hatchery/netboot/usbboot"
	"hatchery/netboot/usbboot/usbboottest"
)

func message(command uint32, name string) []byte {
	m := make([]byte, 260)
	binary.LittleEndian.PutUint32(m, command)
	copy(m[4:], name)
	return m
}

func TestParseMessage(t *testing.T) {
	for _, test := range []struct {
		summary string
		raw     []byte
		want    usbboot.Message
		bad     bool
	}{
		{"a size", message(0, "config.txt"), usbboot.Message{Command: usbboot.GetFileSize, Name: "config.txt"}, false},
		{"a file", message(1, "overlays/dwc2.dtbo"), usbboot.Message{Command: usbboot.ReadFile, Name: "overlays/dwc2.dtbo"}, false},
		{"the end", message(2, "x"), usbboot.Message{Command: usbboot.Done, Name: "x"}, false},
		{"an empty name", message(0, ""), usbboot.Message{Command: usbboot.Done}, false},
		{"an empty name and no command", message(9, ""), usbboot.Message{Command: usbboot.Done}, false},
		{"what stands behind the name is nothing", message(1, "a\x00b"), usbboot.Message{Command: usbboot.ReadFile, Name: "a"}, false},
		{"cut behind the name", message(1, "config.txt")[:15], usbboot.Message{Command: usbboot.ReadFile, Name: "config.txt"}, false},
		{"cut within the name", message(1, "config.txt")[:14], usbboot.Message{}, true},
		{"a command that there is not", message(3, "x"), usbboot.Message{}, true},
		{"a negative command", message(0xffffffff, "x"), usbboot.Message{}, true},
		{"nothing", nil, usbboot.Message{}, true},
		{"too long", make([]byte, 300), usbboot.Message{}, true},
		{"a name without an end", message(0, strings.Repeat("a", 256)), usbboot.Message{Command: usbboot.GetFileSize, Name: strings.Repeat("a", 256)}, false},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got, err := usbboot.ParseMessage(test.raw)
			if test.bad != errors.Is(err, usbboot.ErrProtocol) || got != test.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestCleanName(t *testing.T) {
	for _, test := range []struct{ summary, name, want string }{
		{"plain", "config.txt", "config.txt"},
		{"in a folder", "overlays/dwc2.dtbo", "overlays/dwc2.dtbo"},
		{"a dot", "./config.txt", "config.txt"},
		{"two slashes", "overlays//dwc2.dtbo", "overlays/dwc2.dtbo"},
		{"dots in a name", "a..b/c...d", "a..b/c...d"},
		{"255 bytes", strings.Repeat("a", 255), strings.Repeat("a", 255)},
		{"not ASCII", "größe.txt", "größe.txt"},
		{"empty", "", ""},
		{"256 bytes", strings.Repeat("a", 256), ""},
		{"300 bytes", strings.Repeat("a", 300), ""},
		{"up", "../shadow", ""},
		{"up and down", "overlays/../config.txt", ""},
		{"up at the end", "overlays/..", ""},
		{"absolute", "/etc/shadow", ""},
		{"backslash", `..\config.txt`, ""},
		{"drive", "c:config.txt", ""},
		{"newline", "a\nb", ""},
		{"delete", "a\x7f", ""},
		{"not UTF-8", "\xff\xfe", ""},
		{"metadata", "*BCM2711", ""},
		{"the folder itself", "./", ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got, err := usbboot.CleanName(test.name)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestStageOf(t *testing.T) {
	for index, want := range map[uint8]usbboot.Stage{
		0: usbboot.StageROM, 1: usbboot.StageFiles, 2: usbboot.StageFiles, 3: usbboot.StageROM, 4: usbboot.StageFiles,
	} {
		if got := usbboot.StageOf(index); got != want {
			t.Errorf("iSerialNumber %d is %v", index, got)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(message(0, "config.txt"))
	f.Add(message(1, "../../etc/shadow"))
	f.Add(message(7, "\xff"))
	f.Add(message(1, strings.Repeat("a/", 128)))
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := usbboot.ParseMessage(raw)
		if err != nil {
			if !errors.Is(err, usbboot.ErrProtocol) || m != (usbboot.Message{}) {
				t.Fatalf("%+v, %v", m, err)
			}
			return
		}
		if m.Command < usbboot.GetFileSize || m.Command > usbboot.Done || len(m.Name) > 256 || strings.ContainsRune(m.Name, 0) {
			t.Fatalf("%+v", m)
		}
		name, err := usbboot.CleanName(m.Name)
		if err != nil {
			return
		}
		if name == "" || name[0] == '/' || strings.ContainsAny(name, "\\\x00\n:") {
			t.Fatalf("%q became %q", m.Name, name)
		}
		for part := range strings.SplitSeq(name, "/") {
			if part == ".." || part == "." || part == "" {
				t.Fatalf("%q became %q", m.Name, name)
			}
		}
		if again, err := usbboot.CleanName(name); again != name || err != nil {
			t.Fatalf("%q became %q, then %q", m.Name, name, again)
		}
	})
}

// tape is a device that does what bytes say.
type tape struct{ rest []byte }

func (d *tape) byte() (byte, bool) {
	if len(d.rest) == 0 {
		return 0, false
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b, true
}

func (d *tape) Control(_ context.Context, requestType, _ uint8, _, _ uint16, data []byte, _ time.Duration) (int, error) {
	b, ok := d.byte()
	switch {
	case !ok:
		return 0, usbboot.ErrGone
	case b == 0xff:
		return int(b) * 100, nil
	case b == 0xfe:
		return -1, nil
	case b == 0xfd:
		return 0, errors.New("something else")
	case requestType&0x80 == 0:
		return 0, nil
	}
	n := copy(data, d.rest)
	d.rest = d.rest[n:]
	if n == 0 {
		return 0, usbboot.ErrGone
	}
	return n, nil
}

func (d *tape) BulkOut(_ context.Context, _ uint8, data []byte, _ time.Duration) (int, error) {
	b, ok := d.byte()
	switch {
	case !ok:
		return 0, usbboot.ErrGone
	case b == 0xff:
		return len(data) + 1, nil
	case b == 0xfe:
		return -1, usbboot.ErrStall
	case b >= 0xf0:
		return min(int(b&7), len(data)), usbboot.ErrStall
	}
	return min(len(data), 1+int(b)<<6), nil
}

func (d *tape) ClearHalt(uint8) error { return nil }
func (d *tape) Close() error          { return nil }

// FuzzServe lets a device say and do anything: whatever comes, Serve ends and its
// books balance.
func FuzzServe(f *testing.F) {
	files := usbboottest.Files{
		usbboot.Bootcode: make([]byte, 100), "config.txt": []byte("gpu_mem=16\n"), "start.elf": make([]byte, 40_000), "empty": nil,
	}
	f.Add(true, []byte{0, 200, 0, 200, 0, 0, 0, 0, 0})
	f.Add(false, append([]byte{1}, message(1, "start.elf")...))
	f.Add(false, append(append([]byte{1}, message(0, "config.txt")...), append([]byte{0, 1}, message(0, "")...)...))
	f.Add(false, append([]byte{1}, message(5, "x")...))
	f.Add(false, []byte{0xff})
	f.Fuzz(func(t *testing.T, rom bool, raw []byte) {
		stage := usbboot.StageFiles
		if rom {
			stage = usbboot.StageROM
		}
		// What is tried again after a pause takes real time.
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		result, err := usbboot.Serve(ctx, usbboot.Device{Transport: &tape{raw}, Stage: stage, Interfaces: 1}, files, usbboot.Options{})
		if (err != nil) != (result.End == usbboot.EndFailed) {
			t.Fatalf("%v, %v", result.End, err)
		}
		for _, e := range result.Transcript {
			if e.Sent > e.Size || e.Sent < 0 || e.Refused == "" && !e.Missing && e.Size != 0 && files[e.Name] == nil {
				t.Fatalf("%+v", e)
			}
		}
		if result.Bytes != result.Transcript.Bytes() {
			t.Fatalf("%d bytes, %d in the transcript", result.Bytes, result.Transcript.Bytes())
		}
	})
}
