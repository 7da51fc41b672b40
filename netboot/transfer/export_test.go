package transfer

import (
	"bytes"
	"io"
)

// A Frame is one message, for tests.
type Frame struct {
	Type    uint8
	Flags   uint8
	Object  uint16
	Offset  int64
	Length  int
	Payload []byte
}

// Encode gives a frame's bytes, with the right checksum.
func (f Frame) Encode() []byte {
	var b bytes.Buffer
	(&frame{frameType(f.Type), f.Flags, f.Object, f.Offset, f.Length, f.Payload}).writeTo(&b)
	return b.Bytes()
}

// Decode reads a frame, and its data where it has some.
func Decode(r io.Reader) (f Frame, data []byte, err error) {
	g, err := readFrame(r, nil)
	if err != nil {
		return f, nil, err
	}
	f = Frame{uint8(g.kind), g.flags, g.object, g.offset, g.length, g.payload}
	if g.kind == frameData {
		decoder, err := newDecoder()
		if err != nil {
			return f, nil, err
		}
		defer decoder.Close()
		if data, err = g.data(decoder, nil); err != nil {
			return f, nil, err
		}
	}
	return f, data, nil
}

const (
	MaxData    = maxData
	MaxPayload = maxPayload
)
