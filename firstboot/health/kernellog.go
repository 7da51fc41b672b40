package health

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"

	"hatchery/internal/hearsay"
)

// A kernelLog counts what the kernel said since it booted. It is read on from
// where it was.
type kernelLog struct {
	path string
	file io.ReadCloser
	rest []byte // of a record that was cut off

	card, voltage, killed int
	lastCard, lastKilled  string
}

// maxRecords bounds what one look reads; the rest is read at the next.
const maxRecords = 20_000

// read reads what is new. A log that may not be read says nothing.
func (k *kernelLog) read() {
	if k.file == nil {
		file, err := openLog(k.path)
		if err != nil {
			return
		}
		k.file = file
	}
	// The device gives one record a read, and wants room for it (kernel
	// printk.c, CONSOLE_EXT_LOG_MAX).
	buffer := make([]byte, 8<<10)
	for range maxRecords {
		n, err := k.file.Read(buffer)
		if n > 0 {
			k.take(buffer[:n])
		}
		switch {
		case err == nil:
		case overwritten(err): // the next read goes on with the oldest record
			k.rest = nil
		default:
			if !errors.Is(err, io.EOF) && !nothingYet(err) {
				k.close()
			}
			return
		}
	}
}

func (k *kernelLog) close() {
	if k.file != nil {
		k.file.Close()
		k.file = nil
	}
	k.rest = nil
}

// take takes some of the log.
func (k *kernelLog) take(data []byte) {
	data = append(k.rest, data...)
	for {
		line, after, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			break
		}
		k.record(line)
		data = after
	}
	k.rest = nil
	if len(data) <= 8<<10 {
		k.rest = bytes.Clone(data)
	}
}

var (
	// What the driver of cards, the block layer and ext4 say: drivers/mmc/core,
	// block/blk-core.c, fs/buffer.c, fs/ext4/super.c. A Zero W's Wi-Fi hangs on
	// mmc1.
	cardError   = regexp.MustCompile(`^(?:mmc0: error -|mmc0: Timeout waiting for hardware|mmcblk0[a-z0-9]*: (?:error -|timed out|recovery failed|unable to|Card stuck)|(?:blk_update_request: |print_req_error: )?(?:I/O|critical medium|critical target) error, dev mmcblk0|Buffer I/O error on dev(?:ice)? mmcblk0|EXT4-fs error \(device mmcblk0|EXT4-fs \(mmcblk0p[0-9]+\): (?:Remounting filesystem read-only|failed to convert|I/O error)|Aborting journal on device mmcblk0)`)
	lowVoltage  = regexp.MustCompile(`(?i)^(?:hwmon hwmon[0-9]+: |rpi_firmware_get_throttled: )?under-?voltage detected`)
	outOfMemory = regexp.MustCompile(`^Out of memory: Kill(?:ed)? process ([0-9]+ \([^)]{0,64}\))`)
)

// record takes one record of the log: "priority,sequence,microseconds,flags;text",
// and lines that begin with a space and tell more of it
// (Documentation/ABI/testing/dev-kmsg).
func (k *kernelLog) record(line []byte) {
	head, text, ok := bytes.Cut(line, []byte(";"))
	if !ok || len(line) > 0 && line[0] == ' ' {
		return
	}
	priority, _, _ := bytes.Cut(head, []byte(","))
	// Programs may write into the log; the facility says who it was.
	if p, err := strconv.Atoi(string(priority)); err != nil || p < 0 || p>>3 != 0 {
		return
	}
	switch {
	case cardError.Match(text):
		k.card++
		k.lastCard = hearsay.Line(string(text), 160)
	case lowVoltage.Match(text):
		k.voltage++
	default:
		if m := outOfMemory.FindSubmatch(text); m != nil {
			k.killed++
			k.lastKilled = hearsay.Line(string(m[1]), 100)
		}
	}
}
