// Package nbd serves block devices over the network block device protocol: the
// roots of the slots that boot over their USB link. The other end is, as a
// rule, Linux' own nbd driver.
//
// It speaks fixed newstyle negotiation with EXPORT_NAME, INFO, GO, LIST, ABORT,
// STARTTLS, STRUCTURED_REPLY, LIST_META_CONTEXT and SET_META_CONTEXT
// (base:allocation), and READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS
// and DISC. Everything else is answered as unknown and survived.
//
// # One writer
//
// An export that can be written has one connection. A node whose link broke
// comes back while the old connection still hangs, and what that one had in
// flight must not be written over what the new one writes: so the newer
// connection takes over. The old one is cut off, what it was doing is waited
// for, and only then the new one is answered. Exports that are read-only or
// [Export.Shared] have as many as come, and are advertised as CAN_MULTI_CONN:
// the Device's Flush makes durable what any connection was told is written.
//
// # When the server goes
//
// A request is never answered with an error because the server stops: Linux
// would give that to the file system. What was begun is ended and answered,
// then the connection is closed; the client asks anew on its next one.
//
// # Memory
//
// A connection holds at most 4 MiB of data besides its 32 KiB of input, and
// all together Server.Memory; each has 256 KiB of its own, so a peer that does
// not take its answers holds up nobody but itself.
//
// Source: the protocol document, doc/proto.md of NetworkBlockDevice/nbd. Names
// there are NBD_OPT_GO and the like.
package nbd
