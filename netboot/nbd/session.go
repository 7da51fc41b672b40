package nbd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// mostInput is how much of a connection's input is read ahead.
const mostInput = 32 << 10

// A session is a connection in its transmission phase.
//
// One goroutine at a time reads: the next request with what belongs to it.
// Then it lets another one read and does the request itself, so that nothing
// is handed over. There are as many as requests are under way. While the device
// is quick, short requests, and those of a client that has one at a time, are
// done by one goroutine before it reads on: waking another would cost as much
// as the request. If that takes long for once, a watcher lets another one read.
type session struct {
	c      *conn
	export *Export
	mapper Mapper // nil: the device is none
	// structured says that the client takes structured replies, status that it
	// may ask for the block status.
	structured, status bool
	size               int64
	in                 *bufio.Reader
	out                *sender
	account            *account
	flusher            flusher
	count              *counters

	reading sync.Mutex
	next    atomic.Int32 // how many wait to read
	workers sync.WaitGroup
	ended   bool         // nothing is read any more; under reading
	slow    atomic.Int32 // how many quick requests it takes until one is done alone
	// single counts the beginnings and ends of what is done alone: it is odd
	// while something is, and nobody may read. Who makes it even lets read on.
	single   atomic.Uint64
	watching atomic.Bool
}

const (
	// quick is what a request takes that needs no medium.
	quick = 500 * time.Microsecond
	// short is up to how many bytes waking another goroutine costs more than
	// it gains, though there is more to do.
	short = 16 << 10
	// caution is how many must be quick after one that was not.
	caution = 64
	// glance is how often the watcher looks, and glances how often in vain
	// before it goes.
	glance  = 5 * time.Millisecond
	glances = 20
)

// A job is a request with what it brought.
type job struct {
	request
	refused uint32  // the error that it will be answered with
	data    *buffer // of a write that is at most a piece
	long    bool    // a write whose data is still to be read
}

// run serves until the connection ends.
func (s *session) run() {
	s.workers.Add(1)
	go s.work()
	s.workers.Wait()
}

func (s *session) work() {
	defer s.workers.Done()
	for mine := false; ; { // whether it is its turn to read
		if !mine {
			s.next.Add(1)
			s.reading.Lock()
			s.next.Add(-1)
		}
		if s.ended {
			s.reading.Unlock()
			return
		}
		s.out.begin()
		j, err := s.receive()
		if err == nil && j.long {
			err = s.writeLong(j)
		}
		if err != nil {
			s.ended = true
			s.reading.Unlock()
			<-s.out.done
			s.c.end(err)
			return
		}
		mine = !j.long && s.alone(j)
		switch {
		case j.long: // is done, and let read on
		case mine:
			mine = s.doAlone(j)
		default:
			s.pass()
			s.timed(j)
		}
		if !mine && s.next.Load() > 0 { // enough are waiting
			return
		}
	}
}

// alone says whether a request is to be done before the next is read.
func (s *session) alone(j job) bool {
	if s.slow.Load() != 0 {
		return false
	}
	most := uint32(short)
	if len(s.out.done) == 1 && s.in.Buffered() == 0 { // it is the only one
		most = piece
	}
	return j.kind == cmdRead && j.length <= most || j.data != nil && j.flags == 0 && j.length <= most
}

// doAlone does a request while nobody reads, and says whether that is still so:
// the watcher may have let another one.
func (s *session) doAlone(j job) bool {
	if !s.watching.Load() && s.watching.CompareAndSwap(false, true) {
		go s.watch()
	}
	n := s.single.Add(1)
	s.timed(j)
	return s.single.CompareAndSwap(n, n+1)
}

// watch lets another one read where what is done alone takes long. It goes when
// nothing is any more.
func (s *session) watch() {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	seen, vain := s.single.Load(), 0
	for {
		select {
		case <-s.c.ctx.Done():
			return
		case <-tick.C:
		}
		n := s.single.Load()
		switch {
		case n != seen:
			seen, vain = n, 0
		case n%2 == 1:
			// The one that does it still counts as a worker if this succeeds.
			if s.single.CompareAndSwap(n, n+1) {
				s.slow.Store(caution)
				s.pass()
			}
		default:
			vain++
		}
		if vain < glances {
			continue
		}
		s.watching.Store(false)
		if s.single.Load() == seen || !s.watching.CompareAndSwap(false, true) {
			return
		}
		vain = 0
	}
}

// timed does a request and takes note of how long it took.
func (s *session) timed(j job) {
	began := time.Now()
	s.do(j)
	if time.Since(began) > quick {
		s.slow.Store(caution)
	} else if n := s.slow.Load(); n > 0 {
		s.slow.CompareAndSwap(n, n-1)
	}
}

// pass lets another one read.
func (s *session) pass() {
	if s.next.Load() == 0 {
		s.workers.Add(1)
		go s.work()
	}
	s.reading.Unlock()
}

// receive reads a request.
func (s *session) receive() (job, error) {
	var head [requestSize]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the client went without a word: %w", err)
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("the connection ended within a request: %w", err)
		}
		return job{}, err
	}
	q, err := parseRequest(&head)
	j := job{request: q}
	switch {
	case err != nil:
		return j, err
	case q.kind == cmdDisc:
		return j, ErrDisconnected
	case q.kind != cmdWrite:
		return j, nil
	}
	_, n, ok := s.within(q)
	switch {
	case s.export.ReadOnly:
		j.refused = nbdEPERM
	case q.unknown(0), q.length > maxRequest:
		j.refused = nbdEINVAL
	case !ok:
		j.refused = nbdENOSPC
	case n > piece:
		j.long = true
		return j, nil
	default:
		j.data = s.account.buffer(int(n))
		if err = s.payload(j.data.data()); err != nil {
			s.account.release(j.data)
		}
		return j, err
	}
	if q.length > maxSkip {
		return j, violation("a write of %d bytes", q.length)
	}
	return j, s.skip(int64(q.length))
}

// answer sends a simple reply that ends a request.
func (s *session) answer(q request, err uint32) {
	if err != 0 {
		s.count.errors.Add(1)
	}
	r := &reply{size: simpleSize, last: true}
	putSimple(r.head[:], err, q.cookie)
	s.out.send(r)
}

// refuse answers a request with an error, in the form that it is owed.
func (s *session) refuse(q request, err uint32) {
	if !s.structured || q.kind != cmdRead && q.kind != cmdBlockStatus {
		s.answer(q, err)
		return
	}
	s.count.errors.Add(1)
	r := &reply{size: structuredSize + 6, last: true}
	putChunk(r.head[:], chunkDone, chunkError, q.cookie, 6)
	be.PutUint32(r.head[structuredSize:], err)
	s.out.send(r)
}

// failed answers a request that a Device did not do. What has no device any
// more has no answer.
func (s *session) failed(q request, err error) {
	if s.c.server.seldom.ready() {
		s.c.server.Log.Warn("an export's device failed", "export", s.export.Name, "command", q.kind,
			"offset", q.offset, "length", q.length, "error", err)
	}
	if gone(err) {
		s.c.cut(fmt.Errorf("the device is closed: %w", err))
	}
	s.refuse(q, code(err))
}

// within gives the range of a request, ok only if the device has it.
func (s *session) within(q request) (off, n int64, ok bool) {
	size := uint64(s.size)
	if q.offset > size || uint64(q.length) > size-q.offset {
		return 0, 0, false
	}
	return int64(q.offset), int64(q.length), true
}

// unknown says whether a request has flags besides those that it may have. FUA
// may be on everything (proto.md: servers ignore it where it means nothing).
func (q request) unknown(flags uint16) bool { return q.flags&^(flags|cmdFlagFUA) != 0 }

// do does a request.
func (s *session) do(j job) {
	s.count.inFlight.Add(1)
	defer s.count.inFlight.Add(-1)
	q := j.request
	switch q.kind {
	case cmdRead:
		s.count.reads.Add(1)
		s.read(q)
	case cmdWrite:
		s.count.writes.Add(1)
		if j.refused != 0 {
			s.refuse(q, j.refused)
			return
		}
		_, err := s.export.Device.WriteAt(j.data.data(), int64(q.offset))
		s.account.release(j.data)
		s.written(q, err)
	case cmdFlush:
		s.count.flushes.Add(1)
		switch {
		case q.unknown(0), q.offset != 0, q.length != 0:
			s.refuse(q, nbdEINVAL)
		case s.export.ReadOnly:
			s.answer(q, 0)
		default:
			s.done(q, s.flusher.flush(s.export.Device))
		}
	case cmdTrim, cmdWriteZeroes:
		s.count.discards.Add(1)
		s.zero(q)
	case cmdBlockStatus:
		s.count.queries.Add(1)
		s.blockStatus(q)
	default:
		s.refuse(q, nbdEINVAL)
	}
}

// done answers a request that was done, or was not.
func (s *session) done(q request, err error) {
	if err != nil {
		s.failed(q, err)
		return
	}
	s.answer(q, 0)
}

// writeLong does a WRITE that needs several buffers: what has come is written
// while the rest still comes. It lets the next one read, except where it gives
// an error, which ends the connection.
func (s *session) writeLong(j job) error {
	s.count.inFlight.Add(1)
	defer s.count.inFlight.Add(-1)
	s.count.writes.Add(1)
	var (
		writes sync.WaitGroup
		mu     sync.Mutex
		first  error
	)
	n := int64(j.length)
	for rest := n; rest > 0; {
		b := s.account.buffer(int(min(rest, piece)))
		if err := s.payload(b.data()); err != nil {
			s.account.release(b)
			writes.Wait()
			return err
		}
		at := int64(j.offset) + n - rest
		rest -= int64(b.n)
		writes.Go(func() {
			defer s.account.release(b)
			if _, err := s.export.Device.WriteAt(b.data(), at); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	s.pass()
	writes.Wait()
	s.written(j.request, first)
	return nil
}

// written ends a write.
func (s *session) written(q request, err error) {
	if err == nil && q.flags&cmdFlagFUA != 0 {
		err = s.flusher.flush(s.export.Device)
	}
	if err == nil {
		s.count.bytesWritten.Add(int64(q.length))
	}
	s.done(q, err)
}

// payload reads what a request brings.
func (s *session) payload(p []byte) error {
	if len(p) > s.in.Buffered() {
		s.c.readBy(time.Now().Add(s.c.server.Stall))
		defer s.c.readBy(time.Time{})
	}
	if _, err := io.ReadFull(s.in, p); err != nil {
		return fmt.Errorf("the connection ended within a write: %w", noEOF(err))
	}
	return nil
}

// skip reads and forgets what a request brings.
func (s *session) skip(n int64) error {
	s.c.readBy(time.Now().Add(s.c.server.Stall))
	defer s.c.readBy(time.Time{})
	if _, err := io.CopyN(io.Discard, s.in, n); err != nil {
		return fmt.Errorf("the connection ended within a write: %w", noEOF(err))
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readAt fills p from the device.
func (s *session) readAt(p []byte, off int64) error {
	n, err := s.export.Device.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (s *session) read(q request) {
	off, n, ok := s.within(q)
	allowed := uint16(0)
	if s.structured {
		allowed = cmdFlagDF
	}
	switch {
	case q.unknown(allowed), !ok:
		s.refuse(q, nbdEINVAL)
	case q.flags&cmdFlagDF != 0 && n > piece:
		s.refuse(q, nbdEOVERFLOW)
	case n > maxRequest:
		s.refuse(q, nbdEINVAL)
	case s.structured && n == 0: // there is no empty chunk of data
		r := &reply{size: structuredSize, last: true}
		putChunk(r.head[:], chunkDone, chunkNone, q.cookie, 0)
		s.out.send(r)
	case s.structured:
		s.readChunks(q, off, n)
	case n <= piece:
		s.readSimple(q, off, int(n))
	default:
		s.readLong(q, off, int(n))
	}
}

// readSimple answers with a simple reply what fits into a buffer.
func (s *session) readSimple(q request, off int64, n int) {
	r := &reply{size: simpleSize, last: true}
	putSimple(r.head[:], 0, q.cookie)
	if n > 0 {
		b := s.account.buffer(n)
		if err := s.readAt(b.data(), off); err != nil {
			s.account.release(b)
			s.failed(q, err)
			return
		}
		r.data = []*buffer{b}
	}
	s.count.bytesRead.Add(int64(n))
	s.out.send(r)
}

// readLong answers with a simple reply that needs several buffers: with all of
// them, or, where there is no memory for that, one after the other, which
// leaves nothing but to end the connection if the device fails in the middle.
func (s *session) readLong(q request, off int64, n int) {
	r := &reply{size: simpleSize, last: true}
	putSimple(r.head[:], 0, q.cookie)
	if r.data = s.account.buffers(nil, n); r.data != nil {
		at := off
		for _, b := range r.data {
			if err := s.readAt(b.data(), at); err != nil {
				s.account.release(r.data...)
				s.failed(q, err)
				return
			}
			at += int64(b.n)
		}
		s.count.bytesRead.Add(int64(n))
		s.out.send(r)
		return
	}
	b := s.account.buffer(piece)
	defer s.account.release(b)
	if err := s.readAt(b.data(), off); err != nil {
		s.failed(q, err)
		return
	}
	err := s.out.hold()
	defer func() { <-s.out.done }()
	defer s.out.let()
	for done := 0; err == nil; {
		s.out.vector = s.out.vector[:0]
		if done == 0 {
			s.out.vector = append(s.out.vector, r.head[:r.size])
		}
		s.out.vector = append(s.out.vector, b.data())
		if err = s.out.writeVector(r.size + b.n); err != nil {
			break
		}
		if done += b.n; done == n {
			break
		}
		b.n = min(piece, n-done)
		if err = s.readAt(b.data(), off+int64(done)); err != nil {
			s.count.errors.Add(1)
			s.c.cut(fmt.Errorf("the device failed at %d, within an answer: %w", off+int64(done), err))
		}
	}
	if err == nil {
		s.count.bytesRead.Add(int64(n))
	}
}

// readChunks answers with a structured reply: a chunk for each run of data, in
// pieces, and one for each hole.
func (s *session) readChunks(q request, off, n int64) {
	runs := []run{{length: n}}
	if s.mapper != nil && q.flags&cmdFlagDF == 0 {
		runs = states(s.mapper, off, n, mostExtents)
	}
	end := off + n
	for k := 0; off < end; k++ {
		part := end - off // past the runs that were told
		hole := false
		if k < len(runs) {
			part, hole = runs[k].length, runs[k].state&stateZero != 0
		}
		for ; part > 0; hole = false {
			var flags uint16
			if hole {
				if off+part == end {
					flags = chunkDone
				}
				r := &reply{size: structuredSize + 12, last: flags != 0}
				putChunk(r.head[:], flags, chunkOffsetHole, q.cookie, 12)
				be.PutUint64(r.head[structuredSize:], uint64(off))
				be.PutUint32(r.head[structuredSize+8:], uint32(part))
				if r.last {
					s.count.bytesRead.Add(n)
				}
				s.out.send(r)
				off, part = off+part, 0
				continue
			}
			b := s.account.buffer(int(min(part, piece)))
			if err := s.readAt(b.data(), off); err != nil {
				s.account.release(b)
				s.failed(q, err)
				return
			}
			if off+int64(b.n) == end {
				flags = chunkDone
			}
			r := &reply{size: structuredSize + 8, data: []*buffer{b}, last: flags != 0}
			putChunk(r.head[:], flags, chunkOffsetData, q.cookie, uint32(8+b.n))
			be.PutUint64(r.head[structuredSize:], uint64(off))
			off, part = off+int64(b.n), part-int64(b.n)
			if r.last {
				s.count.bytesRead.Add(n)
			}
			s.out.send(r)
		}
	}
}

// zero does TRIM and WRITE_ZEROES.
func (s *session) zero(q request) {
	off, n, ok := s.within(q)
	allowed := uint16(0)
	if q.kind == cmdWriteZeroes {
		allowed = cmdFlagNoHole | cmdFlagFastZero
	}
	switch {
	case s.export.ReadOnly:
		s.refuse(q, nbdEPERM)
		return
	case q.unknown(allowed):
		s.refuse(q, nbdEINVAL)
		return
	case !ok && q.kind == cmdTrim:
		s.refuse(q, nbdEINVAL)
		return
	case !ok:
		s.refuse(q, nbdENOSPC)
		return
	}
	err := errors.ErrUnsupported
	if q.flags&cmdFlagNoHole == 0 {
		err = s.export.Device.Discard(off, n)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		switch {
		case q.kind == cmdTrim: // a hint
			err, n = nil, 0
		case q.flags&cmdFlagFastZero != 0:
			s.refuse(q, nbdENOTSUP)
			return
		default:
			err = s.writeZeros(off, n)
		}
	}
	if err == nil && q.flags&cmdFlagFUA != 0 {
		err = s.flusher.flush(s.export.Device)
	}
	if err == nil {
		s.count.bytesDiscarded.Add(n)
	}
	s.done(q, err)
}

// writeZeros writes zeros as if they had been sent.
func (s *session) writeZeros(off, n int64) error {
	b := s.account.buffer(int(min(n, piece)))
	defer s.account.release(b)
	clear(b.data())
	for n > 0 {
		p := b.data()[:min(n, int64(b.n))]
		if _, err := s.export.Device.WriteAt(p, off); err != nil {
			return err
		}
		if s.c.severed.Load() { // nobody waits for the answer
			return net.ErrClosed
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

func (s *session) blockStatus(q request) {
	off, n, ok := s.within(q)
	if !s.status || s.mapper == nil || q.unknown(cmdFlagReqOne) || !ok || n == 0 {
		s.refuse(q, nbdEINVAL)
		return
	}
	most := mostExtents
	if q.flags&cmdFlagReqOne != 0 {
		most = 1
	}
	runs := states(s.mapper, off, n, most)
	r := &reply{size: structuredSize + 4, plain: make([]byte, 8*len(runs)), last: true}
	putChunk(r.head[:], chunkDone, chunkBlockStatus, q.cookie, uint32(4+len(r.plain)))
	be.PutUint32(r.head[structuredSize:], contextID)
	for i, run := range runs {
		be.PutUint32(r.plain[8*i:], uint32(run.length))
		be.PutUint32(r.plain[8*i+4:], run.state)
	}
	s.out.send(r)
}
