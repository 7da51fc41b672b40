package nbd

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/netip"
)

// A Device is what an export gives access to; a *layer.Layer is one. Its
// methods are called from several goroutines at once.
//
// Errors reach the client as what they match: syscall.ENOSPC and EDQUOT,
// EPERM and EROFS, EINVAL, EOVERFLOW, ENOMEM, ESHUTDOWN, errors.ErrUnsupported;
// every other is EIO. One that matches os.ErrClosed ends the connection instead.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Size is the length in bytes. It stays while a connection lasts.
	Size() int64
	// Discard makes a range read as zeros and need no space. A Device that
	// cannot gives an error that matches errors.ErrUnsupported.
	Discard(off, n int64) error
	// Flush makes durable what was written or discarded before it was called,
	// by whomever.
	Flush() error
}

// An Extent is a range of a device, in bytes.
type Extent struct {
	Offset, Length int64
	Hole           bool // nothing is stored for it
	Zero           bool // it reads as zeros
}

// A Mapper is a Device that knows where it has nothing. Reads leave out what is
// zero, then, and clients can ask (base:allocation).
type Mapper interface {
	// Extents describes a range: sorted, not overlapping. What it leaves out
	// is data.
	Extents(off, n int64) []Extent
}

// An Export is a device under a name. It is not changed once it was given to
// the server.
type Export struct {
	Name        string // its true name, by which connections are told apart and counted
	Description string
	Device      Device // a Mapper too, perhaps
	ReadOnly    bool
	// Shared lets several connections write at once, to clients that know how.
	// Without it, a new connection cuts off the one before.
	Shared bool
	// Close is called once for each Open that gave the Export, when what
	// opened it is through with it: no request is running then. May be nil.
	Close func() error
}

// A Peer is who is at the other end of a connection.
type Peer struct {
	Addr        netip.AddrPort    // the zero one on a Unix socket
	Certificate *x509.Certificate // verified; nil without TLS
}

// Exports says what there is for whom. Its methods are called from several
// goroutines at once; ctx ends with the connection.
type Exports interface {
	// Open gives a peer an export. Names are as the peer gave them, at most
	// 4096 bytes, "" asks for a default. It is called for a question about an
	// export too, so it does nothing that cannot be taken back, and before a
	// connection that the new one replaces has ended. Errors that
	// match ErrUnknownExport, ErrForbidden, ErrBusy and ErrShutdown are told
	// to the peer as such, without their text.
	Open(ctx context.Context, p Peer, name string) (*Export, error)
	// List names what a peer may open.
	List(ctx context.Context, p Peer) ([]string, error)
}

// Why an export is not opened.
var (
	ErrUnknownExport = errors.New("there is no such export")
	ErrForbidden     = errors.New("the export is not for this peer")
	ErrBusy          = errors.New("the export is in use")
	ErrShutdown      = errors.New("the server is stopping")
)

// Why a connection ended, besides what the network says.
var (
	// ErrDisconnected: the client said that it was done.
	ErrDisconnected = errors.New("the client disconnected")
	// ErrReplaced: a newer connection took the export over.
	ErrReplaced = errors.New("a newer connection took the export over")
	// ErrStalled: the client did not take its answers, or send what it announced.
	ErrStalled = errors.New("the client stalled")
)
