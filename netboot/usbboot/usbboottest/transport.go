package usbboottest

import (
	"context"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"time"

	"hatchery/netboot/usbboot"
)

// state is what the board waits for.
type state int

const (
	romHeaderLength state = iota + 1 // announcement of 24
	romHeader                        // 24 bytes
	romLength                        // announcement of bootcode.bin's length
	romBootcode                      // bootcode.bin
	romStatus                        // the host to fetch the status
	idle                             // the host to fetch a question
	answer                           // the length that was asked for
	data                             // the file
	nameless                         // the answer to an empty name
	halted                           // nothing: the firmware has stopped
)

// transport is one attachment, seen from the host.
type transport struct {
	board      *Board
	attachment int
	closed     bool
}

// Lengths on the wire; the chunk is the largest bulk transfer that Linux's usbfs
// took without limit when rpiboot was written.
const (
	messageLength = 260
	headerLength  = 24
	statusLength  = 4
	chunkMost     = 16384
)

// begin counts a transfer, holds it up as the options want, and says which mishap
// befalls it.
func (t *transport) begin(ctx context.Context, direction Direction, bytes int, timeout time.Duration) (Mishap, error) {
	b := t.board
	b.mu.Lock()
	if t.closed {
		b.mu.Unlock()
		return 0, os.ErrClosed
	}
	b.transfers++
	transfer := Transfer{Number: b.transfers, Attachment: t.attachment, Stage: b.stage, Direction: direction, Bytes: bytes}
	switch b.state {
	case answer, data:
		transfer.Name = b.asked.name
	case romLength, romBootcode:
		transfer.Name = usbboot.Bootcode
	}
	if timeout <= 0 || timeout > time.Minute {
		b.wrong("transfer %d (%v) may take %v: that is no deadline", transfer.Number, direction, timeout)
	}
	before := b.options.Before
	b.mu.Unlock()
	if before != nil {
		if err := before(ctx, transfer); err != nil {
			return 0, err
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.present != t.attachment {
		return 0, usbboot.ErrGone
	}
	if len(b.faults) > 0 && b.faults[0].hits(transfer) {
		mishap := b.faults[0].Mishap
		if !mishap.always() {
			b.faults = b.faults[1:]
		} else {
			b.faults[0].At, b.faults[0].When = transfer.Number, nil
		}
		return mishap, nil
	}
	return 0, nil
}

// befall does what mishaps do to any transfer. It reports whether the transfer is
// over with that.
func (t *transport) befall(ctx context.Context, m Mishap, room int, timeout time.Duration) (n int, err error, over bool) {
	switch m {
	case Stall, StallAlways:
		return 0, usbboot.ErrStall, true
	case Wire, WireAlways:
		return 0, usbboot.ErrIO, true
	case Hang, HangAlways:
		err := hang(ctx, t.board, t.attachment, timeout)
		return 0, err, true
	case Gone:
		t.board.Power(false)
		t.board.mu.Lock()
		t.board.halted = "it lost its power"
		t.board.mu.Unlock()
		return 0, usbboot.ErrGone, true
	case TooMuch:
		return room + 40, nil, true
	}
	return 0, nil, false
}

// hang moves nothing until the time is up, the context ends or the board leaves.
func hang(ctx context.Context, b *Board, attachment int, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		b.mu.Lock()
		changed, present := b.changed, b.present
		b.mu.Unlock()
		if present != attachment {
			return usbboot.ErrGone
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return usbboot.ErrTimeout
		case <-changed:
		}
	}
}

// Control is usbboot.Transport's.
func (t *transport) Control(ctx context.Context, requestType, request uint8, value, index uint16, buf []byte, timeout time.Duration) (int, error) {
	direction := ControlOut
	if requestType&0x80 != 0 {
		direction = ControlIn
	}
	mishap, err := t.begin(ctx, direction, len(buf), timeout)
	if err != nil {
		return 0, err
	}
	if n, err, over := t.befall(ctx, mishap, len(buf), timeout); over {
		return n, err
	}
	b := t.board
	b.mu.Lock()
	if b.state == halted {
		b.mu.Unlock()
		return 0, hang(ctx, b, t.attachment, timeout)
	}
	defer b.mu.Unlock()
	length := int(value) | int(index)<<16
	switch {
	case request != 0:
		return 0, b.wrong("control request %d, where 0 is all there is", request)
	case requestType == 0x40:
		if len(buf) != 0 {
			return 0, b.wrong("an announcement with %d bytes of data", len(buf))
		}
		return 0, b.announced(length)
	case requestType == 0xc0:
		if length != len(buf) {
			return 0, b.wrong("a read of %d bytes that announces %d", len(buf), length)
		}
		switch mishap {
		case StallHalf:
			return 0, usbboot.ErrStall
		case Nothing: // not yet
			return 0, nil
		}
		said, err := b.say(length, mishap)
		if err != nil {
			return 0, err
		}
		if mishap == Short { // said, and lost
			said = said[:3]
		}
		return copy(buf, said), nil
	}
	return 0, b.wrong("control request of type %#x", requestType)
}

// announced takes a length.
func (b *Board) announced(length int) error {
	switch b.state {
	case romHeaderLength:
		if length != headerLength {
			return b.wrong("the boot ROM's header was announced with %d bytes", length)
		}
		b.state, b.expect = romHeader, length
	case romLength:
		if length != b.size {
			return b.wrong("bootcode.bin was announced with %d bytes, its header says %d", length, b.size)
		}
		b.state, b.expect = romBootcode, length
	case answer:
		b.requests = append(b.requests, Request{b.asked.command, b.asked.name, length})
		if b.asked.command == usbboot.GetFileSize || length == 0 {
			b.answered(reply{size: length})
			return nil
		}
		if b.reply.size != length && b.lastSized() == b.asked.name {
			return b.wrong("%s was announced with %d bytes, its size was said to be %d", b.asked.name, length, b.reply.size)
		}
		b.state, b.expect = data, length
	case nameless:
		if length != 0 {
			return b.wrong("an empty name was answered with %d bytes", length)
		}
		b.over()
	default:
		return b.wrong("%d bytes were announced to a board that waits for something else (state %d)", length, b.state)
	}
	b.buffer.Reset()
	return nil
}

// lastSized is the name whose size the reply is that the firmware has.
func (b *Board) lastSized() string {
	if n := len(b.requests); n >= 2 && b.requests[n-2].Command == usbboot.GetFileSize {
		return b.requests[n-2].Name
	}
	return ""
}

// say gives what the board has to say.
func (b *Board) say(length int, mishap Mishap) ([]byte, error) {
	switch b.state {
	case romStatus:
		if length != statusLength {
			return nil, b.wrong("a status of %d bytes was asked for", length)
		}
		if mishap == WrongStatus {
			b.halt("it does not like its bootcode.bin")
			return []byte{0xff, 0xff, 0xff, 0xff}, nil
		}
		b.ranBootcode()
		return make([]byte, statusLength), nil
	case idle:
	default:
		// A boot ROM that was not given its file has nothing to say.
		if b.stage == usbboot.StageROM && b.state == romHeaderLength && length == messageLength {
			return nil, usbboot.ErrStall
		}
		return nil, b.wrong("%d bytes were read from a board that has nothing to say (state %d)", length, b.state)
	}
	if length != messageLength {
		return nil, b.wrong("a question of %d bytes was asked for", length)
	}
	switch mishap {
	case BadCommand:
		return message(7, "config.txt"), nil
	case Garbage:
		return slices.Repeat([]byte{0xfe, 0x01, 0x80}, 90)[:messageLength], nil
	}
	if wicked, ok := map[Mishap]string{
		LongName: strings.Repeat("a", 256), Escape: "../../etc/shadow", Absolute: "/etc/shadow",
		Backslash: `..\config.txt`, Metadata: "*BCM2711", Forever: "config.txt",
	}[mishap]; ok {
		b.asked, b.state = ask{command: usbboot.ReadFile, name: wicked}, answer
		if mishap == Forever {
			b.asked.command = usbboot.GetFileSize
		}
		b.asked.detach = true // what comes is not the firmware's
		return message(b.asked.command, wicked), nil
	}
	question, ok := b.next()
	if ok && question.detach {
		// start.elf attaches anew; this attachment is gone.
		b.attach(usbboot.StageFiles)
		return nil, usbboot.ErrGone
	}
	if !ok {
		if b.halted != "" {
			b.halt(b.halted)
			return nil, usbboot.ErrTimeout
		}
		switch b.options.Farewell {
		case SayDone:
			b.over()
			return message(usbboot.Done, "bye"), nil
		case SayNoName:
			b.state = nameless
			return message(usbboot.GetFileSize, ""), nil
		}
		b.over()
		return nil, usbboot.ErrGone
	}
	b.asked, b.state = question, answer
	return message(question.command, question.name), nil
}

// message is what a board says.
func message(command usbboot.Command, name string) []byte {
	m := make([]byte, messageLength)
	binary.LittleEndian.PutUint32(m, uint32(command))
	copy(m[4:], name)
	return m
}

// ranBootcode detaches the boot ROM and comes back as the file server's client.
func (b *Board) ranBootcode() {
	if b.options.Stuck {
		b.state = idle
		b.start()
		return
	}
	b.attach(usbboot.StageFiles)
}

// over leaves the bus: the kernel runs.
func (b *Board) over() {
	b.boot.Done = true
	b.end()
	b.detach()
}

// answered gives the firmware its answer.
func (b *Board) answered(r reply) {
	if !b.asked.detach {
		b.reply = r
	}
	b.state = idle
}

// BulkOut is usbboot.Transport's.
func (t *transport) BulkOut(ctx context.Context, endpoint uint8, chunk []byte, timeout time.Duration) (int, error) {
	mishap, err := t.begin(ctx, BulkOut, len(chunk), timeout)
	if err != nil {
		return 0, err
	}
	if n, err, over := t.befall(ctx, mishap, len(chunk), timeout); over {
		return n, err
	}
	b := t.board
	b.mu.Lock()
	if b.state == halted {
		b.mu.Unlock()
		return 0, hang(ctx, b, t.attachment, timeout)
	}
	defer b.mu.Unlock()
	wanted := uint8(1)
	if b.options.Interfaces != 1 {
		wanted = 3
	}
	switch {
	case endpoint != wanted:
		return 0, b.wrong("data for endpoint %d, where %d takes it", endpoint, wanted)
	case b.state != romHeader && b.state != romBootcode && b.state != data:
		return 0, b.wrong("%d bytes of data that were not announced (state %d)", len(chunk), b.state)
	case len(chunk) > chunkMost:
		return 0, b.wrong("%d bytes in one transfer", len(chunk))
	case len(chunk) == 0 || len(chunk) > b.expect:
		return 0, b.wrong("%d bytes of data, where %d were to come", len(chunk), b.expect)
	}
	var failed error
	switch mishap {
	case Short, StallHalf:
		chunk = chunk[:len(chunk)/2]
		if mishap == StallHalf {
			failed = usbboot.ErrStall
		}
	case Nothing:
		return 0, nil
	}
	b.buffer.Write(chunk)
	b.expect -= len(chunk)
	if b.expect == 0 {
		b.took(slices.Clone(b.buffer.Bytes()))
	}
	return len(chunk), failed
}

// took ends what was announced.
func (b *Board) took(all []byte) {
	switch b.state {
	case romHeader:
		b.size = int(int32(binary.LittleEndian.Uint32(all)))
		if b.size <= 0 || slices.ContainsFunc(all[4:], func(c byte) bool { return c != 0 }) {
			b.wrong("the boot ROM's header is %x", all)
		}
		b.state = romLength
	case romBootcode:
		b.received[usbboot.Bootcode] = all
		b.requests = append(b.requests, Request{usbboot.ReadFile, usbboot.Bootcode, len(all)})
		b.state = romStatus
	case data:
		b.received[b.asked.name] = all
		b.answered(reply{size: len(all), data: all})
	}
}

// ClearHalt is usbboot.Transport's.
func (t *transport) ClearHalt(endpoint uint8) error {
	b := t.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.present != t.attachment {
		return usbboot.ErrGone
	}
	return nil
}

// Close is usbboot.Transport's.
func (t *transport) Close() error {
	t.board.mu.Lock()
	defer t.board.mu.Unlock()
	t.closed = true
	return nil
}
