package nbd

import "sync/atomic"

// Counters are what was done with an export since the server began. Bytes are
// those of requests that succeeded.
type Counters struct {
	Connections int64 // now
	Opened      int64 // connections ever
	InFlight    int64 // requests now

	Reads, Writes, Flushes, Discards, Queries int64 // requests, whether they succeeded or not
	BytesRead, BytesWritten, BytesDiscarded   int64
	Errors                                    int64 // requests that were answered with one
}

type counters struct {
	connections, opened, inFlight             atomic.Int64
	reads, writes, flushes, discards, queries atomic.Int64
	bytesRead, bytesWritten, bytesDiscarded   atomic.Int64
	errors                                    atomic.Int64
}

func (c *counters) snapshot() Counters {
	return Counters{
		Connections: c.connections.Load(), Opened: c.opened.Load(), InFlight: c.inFlight.Load(),
		Reads: c.reads.Load(), Writes: c.writes.Load(), Flushes: c.flushes.Load(),
		Discards: c.discards.Load(), Queries: c.queries.Load(),
		BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load(), BytesDiscarded: c.bytesDiscarded.Load(),
		Errors: c.errors.Load(),
	}
}
