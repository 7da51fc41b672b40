// Package nl speaks netlink in as few words as nodeinit needs: messages,
// attributes, one request at a time. It is small on purpose: it stays in the
// memory of every node that boots over its link.
//
// Source of the format: the kernel's include/uapi/linux/netlink.h.
package nl

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Types and flags of messages.
const (
	TypeError = 2
	TypeDone  = 3

	FlagRequest = 0x1
	FlagMulti   = 0x2
	FlagAck     = 0x4
	FlagExcl    = 0x200
	FlagCreate  = 0x400
	FlagDump    = 0x300
)

const (
	headerSize = 16
	attrHeader = 4
	// attrType is an attribute's type without the flags "nested" and "network
	// byte order".
	attrType = 0x3fff
	nested   = 0x8000
)

// ErrMalformed is what does not follow the format.
var ErrMalformed = errors.New("malformed netlink message")

// A Message is one message, without its length.
type Message struct {
	Type, Flags uint16
	Seq, Port   uint32
	Data        []byte
}

// Append appends a message as it goes to the kernel.
func (m Message) Append(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(headerSize+len(m.Data)))
	b = binary.NativeEndian.AppendUint16(b, m.Type)
	b = binary.NativeEndian.AppendUint16(b, m.Flags)
	b = binary.NativeEndian.AppendUint32(b, m.Seq)
	b = binary.NativeEndian.AppendUint32(b, m.Port)
	return pad(append(b, m.Data...), len(m.Data))
}

func pad(b []byte, n int) []byte {
	for ; n%4 != 0; n++ {
		b = append(b, 0)
	}
	return b
}

// Messages splits what one read has given. The messages' data are parts of b.
func Messages(b []byte) ([]Message, error) {
	var all []Message
	for len(b) > 0 {
		if len(b) < headerSize {
			return all, fmt.Errorf("%w: %d bytes are no header", ErrMalformed, len(b))
		}
		n := binary.NativeEndian.Uint32(b)
		if n < headerSize || uint64(n) > uint64(len(b)) {
			return all, fmt.Errorf("%w: length %d of %d bytes", ErrMalformed, n, len(b))
		}
		all = append(all, Message{
			Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq: binary.NativeEndian.Uint32(b[8:]), Port: binary.NativeEndian.Uint32(b[12:]),
			Data: b[headerSize:n:n],
		})
		b = b[min(len(b), (int(n)+3)&^3):]
	}
	return all, nil
}

// Errno gives the errno of an error message, 0 for an acknowledgement; ok says
// whether it is one of either.
func (m Message) Errno() (errno int, ok bool) {
	if m.Type != TypeError || len(m.Data) < 4 {
		return 0, false
	}
	return -int(int32(binary.NativeEndian.Uint32(m.Data))), true
}

// An Attr is one attribute.
type Attr struct {
	Type uint16
	Data []byte
}

// Attrs splits attributes. Their data are parts of b.
func Attrs(b []byte) ([]Attr, error) {
	var all []Attr
	for len(b) >= attrHeader {
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrHeader || n > len(b) {
			return all, fmt.Errorf("%w: attribute of %d bytes in %d", ErrMalformed, n, len(b))
		}
		all = append(all, Attr{Type: binary.NativeEndian.Uint16(b[2:]) & attrType, Data: b[attrHeader:n:n]})
		b = b[min(len(b), (n+3)&^3):]
	}
	return all, nil
}

// Uint32 is an attribute's value; false for one of another size.
func (a Attr) Uint32() (uint32, bool) {
	if len(a.Data) != 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(a.Data), true
}

// Uint16 is an attribute's value; false for one of another size.
func (a Attr) Uint16() (uint16, bool) {
	if len(a.Data) != 2 {
		return 0, false
	}
	return binary.NativeEndian.Uint16(a.Data), true
}

// String is an attribute's value up to its NUL.
func (a Attr) String() string {
	for i, c := range a.Data {
		if c == 0 {
			return string(a.Data[:i])
		}
	}
	return string(a.Data)
}

// Put appends an attribute.
func Put(b []byte, kind uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeader+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return pad(append(b, data...), len(data))
}

// PutUint16 appends an attribute.
func PutUint16(b []byte, kind, v uint16) []byte {
	return Put(b, kind, binary.NativeEndian.AppendUint16(nil, v))
}

// PutUint32 appends an attribute.
func PutUint32(b []byte, kind uint16, v uint32) []byte {
	return Put(b, kind, binary.NativeEndian.AppendUint32(nil, v))
}

// PutUint64 appends an attribute.
func PutUint64(b []byte, kind uint16, v uint64) []byte {
	return Put(b, kind, binary.NativeEndian.AppendUint64(nil, v))
}

// PutString appends an attribute, with its NUL.
func PutString(b []byte, kind uint16, s string) []byte {
	return Put(b, kind, append([]byte(s), 0))
}

// PutNested appends an attribute that holds attributes.
func PutNested(b []byte, kind uint16, inner []byte) []byte {
	return Put(b, kind|nested, inner)
}
