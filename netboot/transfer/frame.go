package transfer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	frameHead  = 24
	maxData    = 1 << 20
	maxPayload = maxData + 4096
	flagZstd   = 1
)

type frameType uint8

const (
	frameOffer frameType = iota + 1
	frameWant
	frameData
	frameEnd
	frameResult
	frameAlive
	frameFailure
	frameTaskBegin
	frameTaskAdd
	frameTaskEnd
	frameTypes
)

// A frame is one message. See the package's comment.
type frame struct {
	kind    frameType
	flags   uint8
	object  uint16
	offset  int64
	length  int // before compression
	payload []byte
}

// errDamaged says that a frame is not what was sent.
var errDamaged = errors.New("damaged on its way")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (f *frame) head() [frameHead]byte {
	var p [frameHead]byte
	p[0], p[1] = byte(f.kind), f.flags
	binary.LittleEndian.PutUint16(p[2:], f.object)
	binary.LittleEndian.PutUint32(p[4:], uint32(len(f.payload)))
	binary.LittleEndian.PutUint64(p[8:], uint64(f.offset))
	binary.LittleEndian.PutUint32(p[16:], uint32(f.length))
	sum := crc32.Checksum(p[:20], castagnoli)
	binary.LittleEndian.PutUint32(p[20:], crc32.Update(sum, castagnoli, f.payload))
	return p
}

func (f *frame) writeTo(w io.Writer) error {
	head := f.head()
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(f.payload)
	return err
}

// readFrame reads a frame; its payload lies in room where that is large
// enough. The error is io.EOF where there is none at all.
func readFrame(r io.Reader, room []byte) (*frame, error) {
	var p [frameHead]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("it ends within a frame: %w", err)
		}
		return nil, err
	}
	f := &frame{
		kind: frameType(p[0]), flags: p[1],
		object: binary.LittleEndian.Uint16(p[2:]),
		offset: int64(binary.LittleEndian.Uint64(p[8:])),
		length: int(binary.LittleEndian.Uint32(p[16:])),
	}
	size := binary.LittleEndian.Uint32(p[4:])
	switch {
	case f.kind == 0 || f.kind >= frameTypes:
		return nil, fmt.Errorf("%w: a frame of type %d", errDamaged, p[0])
	case size > maxPayload:
		return nil, fmt.Errorf("%w: a frame of %d bytes", errDamaged, size)
	}
	if int(size) > cap(room) {
		room = make([]byte, size)
	}
	f.payload = room[:size]
	if _, err := io.ReadFull(r, f.payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("it ends within a frame: %w", err)
	}
	sum := crc32.Checksum(p[:20], castagnoli)
	if crc32.Update(sum, castagnoli, f.payload) != binary.LittleEndian.Uint32(p[20:]) {
		return nil, fmt.Errorf("%w: the checksum of a frame is wrong", errDamaged)
	}
	return f, f.check()
}

// check finds what a checksum cannot.
func (f *frame) check() error {
	if f.kind != frameData {
		if f.flags != 0 || f.length != 0 {
			return fmt.Errorf("%w: a frame of type %d with data", errDamaged, f.kind)
		}
		return nil
	}
	switch {
	case f.flags&^flagZstd != 0:
		return fmt.Errorf("%w: unknown flags %#x", errDamaged, f.flags)
	case f.length <= 0 || f.length > maxData || f.offset < 0:
		return fmt.Errorf("%w: %d bytes of data at %d", errDamaged, f.length, f.offset)
	case f.flags&flagZstd == 0 && len(f.payload) != f.length:
		return fmt.Errorf("%w: %d bytes of data in %d", errDamaged, f.length, len(f.payload))
	}
	return nil
}

// data gives a data frame's content, in room where it is compressed.
func (f *frame) data(decoder *zstd.Decoder, room []byte) ([]byte, error) {
	if f.flags&flagZstd == 0 {
		return f.payload, nil
	}
	// The decoder stops at the capacity, so that few bytes cannot become many.
	if cap(room) < f.length {
		room = make([]byte, 0, f.length)
	}
	p, err := decoder.DecodeAll(f.payload, room[:0:f.length])
	if err != nil || len(p) != f.length {
		return nil, fmt.Errorf("%w: %d bytes do not decompress to %d (%v)", errDamaged, len(f.payload), f.length, err)
	}
	return room[:len(p)], nil // p lies in it, but ends with its length
}

func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4<<20),
		zstd.WithDecoderMaxWindow(maxData), zstd.WithDecodeAllCapLimit(true))
}

// message makes a frame of a value.
func message(kind frameType, v any) (*frame, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(data) > maxPayload {
		return nil, fmt.Errorf("a message of %d bytes is longer than %d", len(data), maxPayload)
	}
	return &frame{kind: kind, payload: data}, nil
}

// into reads the value of a frame. Unknown fields are of a newer minor
// version, and ignored.
func (f *frame) into(v any) error {
	decoder := json.NewDecoder(bytes.NewReader(f.payload))
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("a message that cannot be read: %w", err)
	}
	return nil
}
