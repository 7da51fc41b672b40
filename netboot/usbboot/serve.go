package usbboot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"time"
)

const (
	requestOut = 0x40 // vendor request to the device
	requestIn  = 0xc0 // vendor request from the device

	bulkMax     = 16 << 10  // bytes of one bulk transfer
	pieceSize   = 64 << 10  // read from the files at once
	tellEvery   = 256 << 10 // bytes between two Sending events
	stallsMax   = 3         // of one transfer, before it is given up
	faultsMax   = 10        // on the wire, in reading a question, before it is given up
	readsMax    = 3         // tries of reading a question that nothing comes of
	betweenTwo  = 100 * time.Millisecond
	lengthLimit = math.MaxInt32 // of a file: the protocol's lengths are signed in the boards
)

// ErrBootcode says that the boot ROM did not like bootcode.bin.
var ErrBootcode = errors.New("the boot ROM refuses bootcode.bin")

// errLong ends an attachment that takes longer than Limits.Total.
var errLong = errors.New("the device was not served in time")

// Serve serves one attachment of a board until the board has what it wants, leaves,
// or goes wrong. It waits for no longer than the limits allow, whatever the device
// does, and ends as soon as ctx does. The result is there in any case. Serve does
// not close the transport.
//
// A device that leaves between two questions ends without an error ([EndLeft]): it
// starts what it was given. One that leaves within a file does not (ErrGone). That
// it has left says the transport or ctx, by its cause, whichever knows first.
func Serve(ctx context.Context, d Device, files Files, o Options) (Result, error) {
	limits := o.Limits.withDefaults()
	ctx, cancel := context.WithTimeoutCause(ctx, limits.Total, fmt.Errorf("%w: more than %v", errLong, limits.Total))
	defer cancel()
	s := &session{
		device: d, files: files, limits: limits, told: o.Told,
		began: time.Now(), result: Result{Stage: d.Stage},
		message: make([]byte, messageSize),
	}
	_, s.endpoint = Endpoint(d.Interfaces)

	end, err := s.serve(ctx)
	if err != nil {
		end = EndFailed
		if ctx.Err() != nil && !errors.Is(err, ErrGone) {
			err = context.Cause(ctx)
		}
		err = fmt.Errorf("serving a board over USB (%v): %w", s.result.Stage, err)
	}
	s.result.End = end
	s.result.Duration = time.Since(s.began)
	s.tell(Event{Kind: Finished, Err: err})
	return s.result, err
}

// A session is one attachment.
type session struct {
	device   Device
	endpoint uint8
	files    Files
	limits   Limits
	told     func(Event)
	began    time.Time
	result   Result
	message  []byte // what the device said last
	piece    []byte // of the file that is being sent

	// What the last question, for a size, was answered with: the same content is
	// what a question for the content gets, so that the two agree.
	sized struct {
		name    string
		content *io.SectionReader
	}
}

func (s *session) tell(e Event) {
	if s.told == nil {
		return
	}
	e.At, e.Stage, e.Sum = time.Now(), s.result.Stage, s.result.Bytes
	s.told(e)
}

func (s *session) note(e Entry) {
	e.Stage = s.result.Stage
	s.result.Bytes += e.Sent
	if len(s.result.Transcript) < transcriptMax {
		s.result.Transcript = append(s.result.Transcript, e)
	}
}

func (s *session) serve(ctx context.Context) (End, error) {
	if s.device.Stage == StageROM {
		if s.device.Again {
			first, err := s.probe(ctx)
			if err != nil {
				return EndFailed, err
			}
			if first != nil {
				s.result.Stage = StageFiles
				return s.fileServer(ctx, first)
			}
		}
		return s.bootROM(ctx)
	}
	return s.fileServer(ctx, nil)
}

// bootROM gives the boot ROM its file.
func (s *session) bootROM(ctx context.Context) (End, error) {
	s.tell(Event{Kind: Began})
	content, err := s.files.Open(Bootcode)
	if err != nil {
		return EndFailed, fmt.Errorf("%s, which the board needs first, cannot be read from its boot files: %w", Bootcode, err)
	}
	size := content.Size()
	if size <= 0 || size > lengthLimit {
		return EndFailed, fmt.Errorf("%s of the board's boot files has %d bytes", Bootcode, size)
	}
	header := make([]byte, headerSize)
	binary.LittleEndian.PutUint32(header, uint32(size))
	if err := s.announce(ctx, headerSize); err != nil {
		return EndFailed, fmt.Errorf("announcing %s: %w", Bootcode, err)
	}
	if _, err := s.bulk(ctx, header); err != nil {
		return EndFailed, fmt.Errorf("sending the header of %s: %w", Bootcode, err)
	}
	if err := s.send(ctx, Bootcode, content); err != nil {
		return EndFailed, err
	}

	n, err := s.read(ctx, s.message[:statusSize], s.limits.Status)
	switch {
	case errors.Is(err, ErrGone):
		// It has begun to run what it was given, and is on its way off the bus.
		return EndBootcode, nil
	case err != nil:
		return EndFailed, fmt.Errorf("waiting for the boot ROM to accept %s: %w", Bootcode, err)
	case n < statusSize:
		return EndFailed, fmt.Errorf("%w: its status has %d bytes, where %d were expected", ErrProtocol, n, statusSize)
	}
	if status := int32(binary.LittleEndian.Uint32(s.message)); status != 0 {
		return EndFailed, fmt.Errorf("%w (%d bytes, status %d): it is damaged or not for this board", ErrBootcode, size, status)
	}
	return EndBootcode, nil
}

// probe waits a moment for a question of a device that looks like a boot ROM, and
// gives nil if there is none.
func (s *session) probe(ctx context.Context) (*Message, error) {
	n, err := s.control(ctx, requestIn, messageSize, s.message, s.limits.Probe)
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrGone):
		return nil, err
	case err != nil, n <= 0:
		return nil, nil
	}
	m, err := ParseMessage(s.message[:n])
	if err != nil {
		return nil, nil
	}
	return &m, nil
}

// fileServer answers questions until there are no more.
func (s *session) fileServer(ctx context.Context, first *Message) (End, error) {
	s.tell(Event{Kind: Began})
	for range s.limits.Requests {
		var m Message
		if first != nil {
			m, first = *first, nil
		} else {
			n, err := s.read(ctx, s.message, s.limits.Idle)
			switch {
			case errors.Is(err, ErrGone):
				return EndLeft, nil
			case errors.Is(err, ErrTimeout), errors.Is(err, ErrStall):
				return EndFailed, fmt.Errorf("waiting for the device's next question, after %s: %w", s.lastName(), err)
			case err != nil:
				return EndFailed, fmt.Errorf("reading the device's question: %w", err)
			}
			if m, err = ParseMessage(s.message[:n]); err != nil {
				return EndFailed, err
			}
		}
		if m.Command == Done {
			s.note(Entry{Command: Done})
			if m.Name != "" {
				return EndDone, nil
			}
			// An empty name wants an answer; whether the device still hears it
			// makes no difference.
			if err := s.announce(ctx, 0); ctx.Err() != nil && !errors.Is(err, ErrGone) {
				return EndFailed, err
			}
			return EndDone, nil
		}
		if err := s.answer(ctx, m); err != nil {
			return EndFailed, err
		}
	}
	return EndFailed, fmt.Errorf("%w: it asked %d times in one attachment", ErrProtocol, s.limits.Requests)
}

func (s *session) lastName() string {
	if n := len(s.result.Transcript); n > 0 {
		return fmt.Sprintf("%q", s.result.Transcript[n-1].Name)
	}
	return "none"
}

// answer answers a question for a file.
func (s *session) answer(ctx context.Context, m Message) error {
	entry := Entry{Command: m.Command, Name: m.Name}
	name, reason := CleanName(m.Name)
	if reason != nil {
		entry.Refused = reason.Error()
		s.note(entry)
		s.tell(Event{Kind: Refused, Name: m.Name, Err: reason})
		return s.missing(ctx, m)
	}
	content, err := s.open(name, m.Command)
	if err != nil {
		return fmt.Errorf("opening %q: %w", name, err)
	}
	if content == nil {
		entry.Missing = true
		s.note(entry)
		s.tell(Event{Kind: Missing, Name: name})
		return s.missing(ctx, m)
	}
	if m.Command == GetFileSize {
		entry.Size = content.Size()
		s.note(entry)
		if err := s.announce(ctx, content.Size()); err != nil {
			return fmt.Errorf("announcing the size of %q: %w", name, err)
		}
		return nil
	}
	return s.send(ctx, name, content)
}

func (s *session) missing(ctx context.Context, m Message) error {
	if err := s.announce(ctx, 0); err != nil {
		return fmt.Errorf("saying that there is no %q: %w", m.Name, err)
	}
	return nil
}

// open gives a file's content, or nil if there is no such file.
func (s *session) open(name string, command Command) (*io.SectionReader, error) {
	if command == ReadFile && s.sized.content != nil && s.sized.name == name {
		content := s.sized.content
		s.sized.content = nil
		return content, nil
	}
	s.sized.content = nil
	content, err := s.files.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid):
		return nil, nil
	case err != nil:
		return nil, err
	case content.Size() > lengthLimit:
		return nil, fmt.Errorf("it has %d bytes, more than a board can take (%d)", content.Size(), lengthLimit)
	}
	if command == GetFileSize {
		s.sized.name, s.sized.content = name, content
	}
	return content, nil
}

// send announces a file and sends it.
func (s *session) send(ctx context.Context, name string, content *io.SectionReader) (err error) {
	entry := Entry{Command: ReadFile, Name: name, Size: content.Size()}
	sum := sha256.New()
	defer func() {
		if err == nil {
			sum.Sum(entry.SHA256[:0])
		}
		s.note(entry)
		if err == nil {
			s.tell(Event{Kind: Sent, Name: name, Bytes: entry.Sent, Total: entry.Size})
		} else {
			err = fmt.Errorf("sending %q, after %d of %d bytes: %w", name, entry.Sent, entry.Size, err)
		}
	}()
	if err := s.announce(ctx, entry.Size); err != nil {
		return err
	}
	if s.piece == nil {
		s.piece = make([]byte, pieceSize)
	}
	told := int64(0)
	s.tell(Event{Kind: Sending, Name: name, Total: entry.Size})
	for entry.Sent < entry.Size {
		piece := s.piece[:min(entry.Size-entry.Sent, pieceSize)]
		if n, err := content.ReadAt(piece, entry.Sent); n < len(piece) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading it: %w", err)
		}
		if err := s.sendPiece(ctx, piece, sum, &entry); err != nil {
			return err
		}
		if entry.Sent-told >= tellEvery && entry.Sent < entry.Size {
			told = entry.Sent
			s.tell(Event{Kind: Sending, Name: name, Bytes: entry.Sent, Total: entry.Size})
		}
	}
	return nil
}

func (s *session) sendPiece(ctx context.Context, piece []byte, sum hash.Hash, entry *Entry) error {
	for len(piece) > 0 {
		n, err := s.bulk(ctx, piece[:min(len(piece), bulkMax)])
		sum.Write(piece[:n])
		piece = piece[n:]
		entry.Sent += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// announce tells the device how many bytes come next. A stall is tried again.
func (s *session) announce(ctx context.Context, length int64) error {
	for stalls := 1; ; stalls++ {
		_, err := s.control(ctx, requestOut, length, nil, s.limits.Announce)
		if !errors.Is(err, ErrStall) || stalls > stallsMax {
			return err
		}
		s.tell(Event{Kind: Retried, Err: err})
		if err := pause(ctx, betweenTwo); err != nil {
			return err
		}
	}
}

// control does a control transfer of the protocol.
func (s *session) control(ctx context.Context, requestType uint8, length int64, data []byte, timeout time.Duration) (int, error) {
	n, err := s.device.Transport.Control(ctx, requestType, 0, uint16(length), uint16(length>>16), data, timeout)
	if ctx.Err() != nil {
		return 0, ended(ctx)
	}
	if err != nil {
		return 0, known(err)
	}
	if n < 0 || n > len(data) {
		return 0, fmt.Errorf("%w: %d bytes came where %d have room", ErrProtocol, n, len(data))
	}
	return n, nil
}

// bulk sends at most bulkMax bytes and says how many the device took. A stall is
// cleared and the rest sent again.
func (s *session) bulk(ctx context.Context, data []byte) (int, error) {
	taken := 0
	for stalls := 0; taken < len(data); {
		n, err := s.device.Transport.BulkOut(ctx, s.endpoint, data[taken:], s.limits.Bulk)
		if n < 0 || n > len(data)-taken {
			return taken, fmt.Errorf("%w: the transport sent %d of %d bytes", ErrIO, n, len(data)-taken)
		}
		taken += n
		switch {
		case ctx.Err() != nil:
			return taken, ended(ctx)
		case err == nil && n > 0:
		case err == nil:
			return taken, fmt.Errorf("%w: the device took nothing", ErrIO)
		case errors.Is(err, ErrStall) && stalls < stallsMax:
			stalls++
			s.tell(Event{Kind: Retried, Err: err})
			if err := s.device.Transport.ClearHalt(s.endpoint); err != nil {
				return taken, fmt.Errorf("clearing the stall: %w", known(err))
			}
		default:
			return taken, known(err)
		}
	}
	return taken, nil
}

// read waits until the device says something. A transfer that the device refused,
// that failed on the wire, or that moved nothing for a good part of the time there
// is, is tried again after a moment.
func (s *session) read(ctx context.Context, buf []byte, limit time.Duration) (int, error) {
	began := time.Now()
	for faults := 0; ; {
		left := limit - time.Since(began)
		if left <= 0 {
			return 0, fmt.Errorf("%w: nothing came in %v", ErrTimeout, limit)
		}
		n, err := s.control(ctx, requestIn, int64(len(buf)), buf, min(left, limit/readsMax))
		switch {
		case ctx.Err() != nil:
			return 0, ended(ctx)
		case err == nil && n > 0:
			return n, nil
		case err == nil: // nothing to say yet
		case errors.Is(err, ErrStall), errors.Is(err, ErrTimeout):
		case errors.Is(err, ErrIO) && faults < faultsMax:
			faults++
		default:
			return 0, err
		}
		if err != nil {
			s.tell(Event{Kind: Retried, Err: err})
		}
		if err := pause(ctx, betweenTwo); err != nil {
			return 0, err
		}
	}
}

// ended is why a context has ended: because the device has left, or not.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrGone) {
		return cause
	}
	return ctx.Err()
}

// known makes every error of a transport one of those that are told apart.
func known(err error) error {
	for _, k := range []error{ErrGone, ErrStall, ErrTimeout, ErrIO} {
		if errors.Is(err, k) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrIO, err)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ended(ctx)
	case <-timer.C:
		return nil
	}
}
