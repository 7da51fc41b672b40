// Package nbdclient opens an export of an NBD server, as far as the kernel
// leaves that to a program: the fixed newstyle handshake. Afterwards the
// connection is the kernel's; before that a few bytes can be read by it, to see
// what the export holds.
//
// Source: the NBD project's doc/proto.md.
package nbdclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// What a server says of an export.
const (
	FlagHasFlags  = 1 << 0
	FlagReadOnly  = 1 << 1
	FlagFlush     = 1 << 2
	FlagFUA       = 1 << 3
	FlagTrim      = 1 << 5
	FlagZeroes    = 1 << 6
	FlagMultiConn = 1 << 8
)

const (
	magicServer   = 0x4e42444d41474943 // NBDMAGIC
	magicOption   = 0x49484156454f5054 // IHAVEOPT
	magicReply    = 0x0003e889045565a9
	magicRequest  = 0x25609513
	magicResponse = 0x67446698

	handshakeFixed    = 1 << 0
	handshakeNoZeroes = 1 << 1

	optExportName = 1
	optGo         = 7

	repAck          = 1
	repInfo         = 3
	repErr          = 1 << 31
	repUnsupported  = repErr | 1
	repPolicy       = repErr | 2
	repInvalid      = repErr | 3
	repPlatform     = repErr | 4
	repTLSRequired  = repErr | 5
	repUnknown      = repErr | 6
	repShutdown     = repErr | 7
	repBlockSize    = repErr | 8
	repTooBig       = repErr | 9
	infoExport      = 0
	infoBlockSize   = 3
	maxReply        = 64 << 10 // an option's answer
	maxReplies      = 256
	maxName         = 4096
	maxTold         = 200 // of what the server says in words
	maxRead         = 1 << 20
	maxExport       = 1 << 50
	defaultMinBlock = 512
)

// What a server refuses with. All but ErrProtocol may be over when it is asked
// again.
var (
	ErrUnknown  = errors.New("the server has no such export")
	ErrRefused  = errors.New("the server does not give this export to this node")
	ErrTLS      = errors.New("the server wants TLS, which the kernel's client does not speak")
	ErrShutdown = errors.New("the server is shutting down")
	ErrProtocol = errors.New("what answers does not speak NBD as it should")
)

// An Export is what a server says of it.
type Export struct {
	Size     int64
	Flags    uint16
	MinBlock uint32 // requests are multiples of it
}

// ReadOnly says whether it takes no writes.
func (e Export) ReadOnly() bool { return e.Flags&FlagReadOnly != 0 }

// Negotiate opens an export. The connection's deadline is the caller's.
func Negotiate(c io.ReadWriter, name string) (Export, error) {
	if len(name) > maxName {
		return Export{}, fmt.Errorf("an export's name has %d bytes at most", maxName)
	}
	var hello [18]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		return Export{}, fmt.Errorf("the server says nothing: %w", err)
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	switch {
	case binary.BigEndian.Uint64(hello[:]) != magicServer, binary.BigEndian.Uint64(hello[8:]) != magicOption:
		return Export{}, fmt.Errorf("%w: it is not an NBD server of the new style", ErrProtocol)
	case flags&handshakeFixed == 0:
		return Export{}, fmt.Errorf("%w: it does not know the fixed handshake", ErrProtocol)
	}
	noZeroes := flags&handshakeNoZeroes != 0
	ours := uint32(handshakeFixed)
	if noZeroes {
		ours |= handshakeNoZeroes
	}
	if _, err := c.Write(binary.BigEndian.AppendUint32(nil, ours)); err != nil {
		return Export{}, fmt.Errorf("cannot greet the server: %w", err)
	}
	e, err := optGoExport(c, name)
	if errors.Is(err, errUnsupported) {
		return exportName(c, name, noZeroes)
	}
	return e, err
}

var errUnsupported = errors.New("the server does not know the option")

func option(c io.Writer, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := c.Write(append(b, data...)); err != nil {
		return fmt.Errorf("cannot ask the server: %w", err)
	}
	return nil
}

func optGoExport(c io.ReadWriter, name string) (Export, error) {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	data = append(data, name...)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	if err := option(c, optGo, data); err != nil {
		return Export{}, err
	}
	e := Export{MinBlock: defaultMinBlock}
	known := false
	for range maxReplies {
		kind, data, err := reply(c, optGo)
		if err != nil {
			return Export{}, err
		}
		switch {
		case kind == repAck:
			if !known {
				return Export{}, fmt.Errorf("%w: it opened the export and did not say how large it is", ErrProtocol)
			}
			return e, nil
		case kind == repInfo && len(data) >= 2:
			switch binary.BigEndian.Uint16(data) {
			case infoExport:
				if len(data) != 12 {
					return Export{}, fmt.Errorf("%w: %d bytes about an export", ErrProtocol, len(data))
				}
				if e.Size, err = size(binary.BigEndian.Uint64(data[2:])); err != nil {
					return Export{}, err
				}
				e.Flags, known = binary.BigEndian.Uint16(data[10:]), true
			case infoBlockSize:
				if len(data) != 14 {
					return Export{}, fmt.Errorf("%w: %d bytes about block sizes", ErrProtocol, len(data))
				}
				e.MinBlock = binary.BigEndian.Uint32(data[2:])
				if e.MinBlock == 0 || e.MinBlock&(e.MinBlock-1) != 0 || e.MinBlock > 64<<10 {
					return Export{}, fmt.Errorf("%w: blocks of %d bytes", ErrProtocol, e.MinBlock)
				}
			}
		case kind&repErr != 0:
			return Export{}, refusal(kind, data)
		default:
			return Export{}, fmt.Errorf("%w: answer %d", ErrProtocol, kind)
		}
	}
	return Export{}, fmt.Errorf("%w: its answers do not end", ErrProtocol)
}

func reply(c io.Reader, asked uint32) (kind uint32, data []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, fmt.Errorf("the server does not answer: %w", err)
	}
	n := binary.BigEndian.Uint32(head[16:])
	switch {
	case binary.BigEndian.Uint64(head[:]) != magicReply, binary.BigEndian.Uint32(head[8:]) != asked:
		return 0, nil, fmt.Errorf("%w: no answer to what was asked", ErrProtocol)
	case n > maxReply:
		return 0, nil, fmt.Errorf("%w: an answer of %d bytes", ErrProtocol, n)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(c, data); err != nil {
		return 0, nil, fmt.Errorf("the server's answer ends early: %w", err)
	}
	return binary.BigEndian.Uint32(head[12:]), data, nil
}

func refusal(kind uint32, words []byte) error {
	var err error
	switch kind {
	case repUnsupported:
		return errUnsupported
	case repUnknown:
		err = ErrUnknown
	case repPolicy:
		err = ErrRefused
	case repTLSRequired:
		err = ErrTLS
	case repShutdown:
		err = ErrShutdown
	case repInvalid, repPlatform, repBlockSize, repTooBig:
		err = fmt.Errorf("the server refuses (NBD error %d)", kind&^repErr)
	default:
		err = fmt.Errorf("%w: NBD error %d", ErrProtocol, kind&^repErr)
	}
	if said := printable(words); said != "" {
		return fmt.Errorf("%w: it says %q", err, said)
	}
	return err
}

func printable(words []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, string(words[:min(len(words), maxTold)]))
}

// exportName is the older way, of servers that do not know OPT_GO.
func exportName(c io.ReadWriter, name string, noZeroes bool) (Export, error) {
	if err := option(c, optExportName, []byte(name)); err != nil {
		return Export{}, err
	}
	answer := make([]byte, 10, 134)
	if !noZeroes {
		answer = answer[:134]
	}
	if _, err := io.ReadFull(c, answer); err != nil {
		// To this option a server says no by hanging up.
		return Export{}, fmt.Errorf("%w (it hung up): %w", ErrUnknown, err)
	}
	n, err := size(binary.BigEndian.Uint64(answer))
	return Export{Size: n, Flags: binary.BigEndian.Uint16(answer[8:]), MinBlock: defaultMinBlock}, err
}

func size(n uint64) (int64, error) {
	if n == 0 || n > maxExport {
		return 0, fmt.Errorf("%w: an export of %d bytes", ErrProtocol, n)
	}
	return int64(n), nil
}

// A Reader reads an open export, before the kernel has the connection.
// Offsets and lengths need not be multiples of anything.
type Reader struct {
	c      io.ReadWriter
	export Export
	handle uint64
}

// NewReader reads by a connection that Negotiate has opened.
func NewReader(c io.ReadWriter, e Export) *Reader { return &Reader{c: c, export: e} }

// ReadAt reads p whole, or fails: the connection is of no use then.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	block := int64(max(r.export.MinBlock, defaultMinBlock))
	if off < 0 || len(p) > maxRead {
		return 0, fmt.Errorf("cannot read %d bytes at %d in one piece", len(p), off)
	}
	if off+int64(len(p)) > r.export.Size {
		return 0, io.EOF
	}
	from := off / block * block
	to := (off + int64(len(p)) + block - 1) / block * block
	if to > r.export.Size { // a last block that is none
		to = r.export.Size
	}
	r.handle++
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint32(b, 0) // no flags, READ
	b = binary.BigEndian.AppendUint64(b, r.handle)
	b = binary.BigEndian.AppendUint64(b, uint64(from))
	b = binary.BigEndian.AppendUint32(b, uint32(to-from))
	if _, err := r.c.Write(b); err != nil {
		return 0, fmt.Errorf("cannot ask the server for data: %w", err)
	}
	var head [16]byte
	if _, err := io.ReadFull(r.c, head[:]); err != nil {
		return 0, fmt.Errorf("the server gives no data: %w", err)
	}
	errno := binary.BigEndian.Uint32(head[4:])
	switch {
	case binary.BigEndian.Uint32(head[:]) != magicResponse, binary.BigEndian.Uint64(head[8:]) != r.handle:
		return 0, fmt.Errorf("%w: no answer to a read", ErrProtocol)
	case errno != 0:
		return 0, fmt.Errorf("the server cannot read byte %d of the export: error %d", off, errno)
	}
	data := make([]byte, to-from)
	if _, err := io.ReadFull(r.c, data); err != nil {
		return 0, fmt.Errorf("the server's data end early: %w", err)
	}
	return copy(p, data[off-from:]), nil
}
