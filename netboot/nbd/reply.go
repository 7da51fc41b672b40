package nbd

import (
	"net"
	"sync"
	"time"
)

// mostQueued is how many requests of a connection may be unanswered.
const mostQueued = 64

// mostChunks is how many replies wait before those that are not the last of
// their request are held back.
const mostChunks = 256

// A reply is what is sent in one go: a head, and data.
type reply struct {
	head  [headroom]byte
	size  int       // of the head
	plain []byte    // more data
	data  []*buffer // data; the first one's headroom takes the head
	last  bool      // the request is answered with it
}

// A sender sends replies, each as a whole. Whoever comes while somebody else
// is writing leaves its reply to that one, so under load many go with one
// system call.
type sender struct {
	conn    net.Conn
	tls     bool
	stall   time.Duration
	account *account
	done    chan struct{} // a request's place is taken out for each reply that is its last
	failed  func(error)

	mu      sync.Mutex
	idle    sync.Cond // nobody is writing
	room    sync.Cond // the queue is short
	busy    bool      // somebody is writing
	waiting int       // for its turn to write by itself
	queue   []*reply
	spare   []*reply
	err     error

	vector net.Buffers // of whoever is writing
	until  time.Time   // the deadline that is set
	joined []byte
}

func newSender(conn net.Conn, tls bool, stall time.Duration, a *account, failed func(error)) *sender {
	s := &sender{conn: conn, tls: tls, stall: stall, account: a, done: make(chan struct{}, mostQueued), failed: failed}
	s.idle.L, s.room.L = &s.mu, &s.mu
	return s
}

// begin waits for a place for another request.
func (s *sender) begin() { s.done <- struct{}{} }

// send sends a reply, now or as soon as what is being sent is through. Its
// buffers are released after that.
func (s *sender) send(r *reply) {
	s.mu.Lock()
	for s.busy && !r.last && len(s.queue) >= mostChunks {
		s.room.Wait()
	}
	s.queue = append(s.queue, r)
	if s.busy {
		s.mu.Unlock()
		return
	}
	s.busy = true
	s.drain()
}

// hold waits until nobody else writes. What is sent meanwhile is queued until
// let.
func (s *sender) hold() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	for s.busy {
		s.idle.Wait()
	}
	s.waiting--
	s.busy = true
	return s.err
}

// let ends what hold began.
func (s *sender) let() {
	s.mu.Lock()
	s.drain()
}

// drain sends what is queued; called with mu held, which it lets go, and busy.
func (s *sender) drain() {
	for len(s.queue) > 0 && s.waiting == 0 {
		batch := s.queue
		s.queue = s.spare[:0]
		err := s.err
		s.mu.Unlock()
		if err == nil {
			err = s.write(batch)
		}
		for i, r := range batch {
			s.account.release(r.data...)
			if r.last {
				<-s.done
			}
			batch[i] = nil
		}
		s.mu.Lock()
		s.spare = batch
		s.err = err
		s.room.Broadcast()
	}
	s.busy = false
	s.idle.Signal()
	s.mu.Unlock()
}

// write sends replies.
func (s *sender) write(batch []*reply) error {
	s.vector = s.vector[:0]
	total := 0
	for _, r := range batch {
		if len(r.data) > 0 {
			first := r.data[0]
			from := headroom - r.size
			copy(first.raw[from:], r.head[:r.size])
			s.vector = append(s.vector, first.raw[from:headroom+first.n])
			total += r.size + first.n
			for _, b := range r.data[1:] {
				s.vector = append(s.vector, b.data())
				total += b.n
			}
			continue
		}
		s.vector = append(s.vector, r.head[:r.size])
		total += r.size
		if len(r.plain) > 0 {
			s.vector = append(s.vector, r.plain)
			total += len(r.plain)
		}
	}
	return s.writeVector(total)
}

// joinable is up to how many bytes parts are copied together, which is faster
// than to have the kernel gather them; TLS would make a record of each.
const joinable = 8 << 10

func (s *sender) writeVector(total int) error {
	// Setting a deadline costs as much as a small write: it is set for longer
	// than is needed.
	if now := time.Now(); s.until.Sub(now) < s.stall {
		s.until = now.Add(s.stall + s.stall/8 + time.Second)
		_ = s.conn.SetWriteDeadline(s.until) // closed: the write says so
	}
	var err error
	switch {
	case len(s.vector) == 1:
		_, err = s.conn.Write(s.vector[0])
	case total <= joinable || s.tls && total <= 2*joinable:
		s.joined = s.joined[:0]
		for _, p := range s.vector {
			s.joined = append(s.joined, p...)
		}
		_, err = s.conn.Write(s.joined)
	default:
		rest := s.vector // WriteTo eats it
		_, err = rest.WriteTo(s.conn)
	}
	clear(s.vector)
	if err != nil {
		s.failed(err)
	}
	return err
}
