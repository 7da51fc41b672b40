package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Bounds of what a peer may ask for, in bytes.
const (
	maxRequest = 32 << 20 // READ and WRITE, as it is advertised
	maxSkip    = 64 << 20 // of a WRITE that is refused: what is longer ends the connection
	maxOption  = 16 << 10 // the data of an option
	maxOptSkip = 1 << 20  // of an option that is refused
	maxName    = 4096     // NBD_MAX_STRING: an export's name
	maxOptions = 256      // of one handshake
	maxQueries = 64       // of meta contexts, in one option
)

const (
	magicGreeting   = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicReply      = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

// Handshake flags, of the server and of the client.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Options.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// Replies to options.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repErrUnsup    = 1<<31 + 1
	repErrPolicy   = 1<<31 + 2
	repErrInvalid  = 1<<31 + 3
	repErrTLSReqd  = 1<<31 + 5
	repErrUnknown  = 1<<31 + 6
	repErrShutdown = 1<<31 + 7
	repErrTooBig   = 1<<31 + 9
)

// Kinds of information about an export.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Transmission flags: what an export can do.
const (
	hasFlags        = 1 << 0
	flagReadOnly    = 1 << 1
	sendFlush       = 1 << 2
	sendFUA         = 1 << 3
	sendTrim        = 1 << 5
	sendWriteZeroes = 1 << 6
	sendDF          = 1 << 7
	canMultiConn    = 1 << 8
	sendFastZero    = 1 << 11
)

// Commands.
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// Command flags.
const (
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// Chunks of structured replies.
const (
	chunkDone = 1 << 0 // a flag

	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
	chunkErrorOffset = 1<<15 + 2
)

// base:allocation, the one meta context, its id on every connection, and its
// flags.
const (
	contextNamespace = "base:"
	contextName      = "base:allocation"
	contextID        = 1

	stateHole = 1 << 0
	stateZero = 1 << 1
)

// Errors as the protocol numbers them.
const (
	nbdEPERM     = 1
	nbdEIO       = 5
	nbdENOMEM    = 12
	nbdEINVAL    = 22
	nbdENOSPC    = 28
	nbdEOVERFLOW = 75
	nbdENOTSUP   = 95
	nbdESHUTDOWN = 108
)

// Sizes of headers.
const (
	requestSize    = 28
	simpleSize     = 16
	structuredSize = 20
	optionSize     = 16
	optReplySize   = 20
)

var be = binary.BigEndian

// A ProtocolError says what a peer sent that is not NBD, or more than there may
// be. Its connection is closed.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "the peer does not keep to the protocol: " + e.What }

func violation(format string, args ...any) error {
	return &ProtocolError{fmt.Sprintf(format, args...)}
}

// A request is the head of a command.
type request struct {
	flags, kind    uint16
	cookie, offset uint64
	length         uint32
}

func parseRequest(p *[requestSize]byte) (request, error) {
	if got := be.Uint32(p[:]); got != magicRequest {
		return request{}, violation("a request begins with %#x", got)
	}
	return request{
		flags: be.Uint16(p[4:]), kind: be.Uint16(p[6:]),
		cookie: be.Uint64(p[8:]), offset: be.Uint64(p[16:]), length: be.Uint32(p[24:]),
	}, nil
}

// putSimple writes the head of a simple reply.
func putSimple(p []byte, code uint32, cookie uint64) {
	be.PutUint32(p, magicSimple)
	be.PutUint32(p[4:], code)
	be.PutUint64(p[8:], cookie)
}

// putChunk writes the head of a chunk of a structured reply.
func putChunk(p []byte, flags, kind uint16, cookie uint64, length uint32) {
	be.PutUint32(p, magicStructured)
	be.PutUint16(p[4:], flags)
	be.PutUint16(p[6:], kind)
	be.PutUint64(p[8:], cookie)
	be.PutUint32(p[16:], length)
}

// code gives a Device's error as the protocol numbers it.
func code(err error) uint32 {
	for _, e := range []struct {
		is   error
		code uint32
	}{
		{syscall.ENOSPC, nbdENOSPC}, {syscall.EDQUOT, nbdENOSPC}, {syscall.EFBIG, nbdENOSPC},
		{fs.ErrPermission, nbdEPERM}, {syscall.EROFS, nbdEPERM},
		{syscall.EINVAL, nbdEINVAL}, {syscall.EOVERFLOW, nbdEOVERFLOW}, {syscall.ENOMEM, nbdENOMEM},
		{syscall.ESHUTDOWN, nbdESHUTDOWN}, {errors.ErrUnsupported, nbdENOTSUP},
	} {
		if errors.Is(err, e.is) {
			return e.code
		}
	}
	return nbdEIO
}

// gone says whether an error means that the Device is there no more: no answer
// to a client, which would take it for the medium's.
func gone(err error) bool { return errors.Is(err, os.ErrClosed) }
