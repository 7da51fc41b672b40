package swarmbackup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// This file reads the log of etcd's raft library as swarmkit keeps it: enough
// to say where its last whole record ends, and to write a shorter one that says the
// same. From etcd's server/storage/wal (encoder.go, decoder.go, wal.go,
// record.proto) and raft/raftpb/raft.proto:
//
// A segment is a row of frames. A frame begins with 8 bytes, little-endian:
// the length of its record in the low 56 bits and, where the highest bit is
// set, in the three bits below the count of bytes that fill up to a multiple
// of 8. The first segment's space is taken beforehand, so that a length of 0
// is the end of what was written. A record is a protobuf message {1: type, 2: crc, 3: data};
// crc is the CRC-32 (Castagnoli) of all data of the log so far, and a record
// of type crc hands the sum over to the next segment. swarmkit encrypts
// the entries' payload inside data, nothing else.
//
// A log is read from a snapshot on: the record of that snapshot must be in it, entries up to
// the snapshot are passed over, and the last state is the one that counts. Segments
// are only cut at 64 MB, so that most of a log is from before the snapshot.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The types of records.
const (
	recordMetadata = 1
	recordEntry    = 2
	recordState    = 3
	recordCRC      = 4
	recordSnapshot = 5
)

// maxRecord is more than a record can have: swarmkit's raft takes proposals of
// up to 1.5 MB, and configs of 1 MB.
const maxRecord = 64 << 20

// errTorn is where a segment's records end other than by zeros or at the end of the
// file: half of a record was written, by a moment or for good.
var errTorn = errors.New("a record that is not whole")

// A walState is what reading the log has shown.
type walState struct {
	crc       uint32
	started   bool // a crc record was seen
	term      uint64
	index     uint64
	commit    uint64
	snapshots map[uint64]bool // the indexes that the log knows a snapshot of
	metadata  bool
	short     *shortLog // nil: the log is only read
}

// A shortLog writes the log from a snapshot on, as one segment.
type shortLog struct {
	w     io.Writer
	from  uint64 // the snapshot's index, 0 for none
	crc   uint32
	begun bool
	state []byte // the last one
}

// record passes on what is needed of a log.
func (l *shortLog) record(kind, index uint64, payload []byte) error {
	switch {
	case kind == recordMetadata && l.begun, // each segment has it
		kind == recordEntry && index <= l.from,
		kind == recordSnapshot && index != l.from:
		return nil
	case kind == recordState:
		l.state = append(l.state[:0], payload...)
		return nil
	}
	return l.write(kind, payload)
}

// end writes what comes last.
func (l *shortLog) end() error {
	if len(l.state) == 0 {
		return nil
	}
	return l.write(recordState, l.state)
}

func (l *shortLog) write(kind uint64, payload []byte) error {
	if !l.begun {
		l.begun = true
		if _, err := l.w.Write(frameOf(recordCRC, 0, nil)); err != nil {
			return err
		}
	}
	l.crc = crc32.Update(l.crc, castagnoli, payload)
	_, err := l.w.Write(frameOf(kind, l.crc, payload))
	return err
}

// frameOf is a record in its frame.
func frameOf(kind uint64, crc uint32, payload []byte) []byte {
	b := make([]byte, 8, 8+32+len(payload))
	b = binary.AppendUvarint(append(b, 1<<3), kind)
	b = binary.AppendUvarint(append(b, 2<<3), uint64(crc))
	if payload != nil {
		b = binary.AppendUvarint(append(b, 3<<3|2), uint64(len(payload)))
		b = append(b, payload...)
	}
	head := uint64(len(b) - 8)
	if pad := -head & 7; pad > 0 {
		head |= (0x80 | pad) << 56
		b = append(b, make([]byte, pad)...)
	}
	binary.LittleEndian.PutUint64(b, head)
	return b
}

// readSegment reads a segment from its start and gives the length of its whole
// records. The error is errTorn where something follows them that is not zeros; only
// the last segment may end so.
func (s *walState) readSegment(r io.Reader) (int64, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var good int64
	var frame [8]byte
	var buf []byte
	for {
		switch _, err := io.ReadFull(br, frame[:]); err {
		case nil:
		case io.EOF:
			return good, nil
		case io.ErrUnexpectedEOF:
			return good, errTorn
		default:
			return good, err
		}
		field := binary.LittleEndian.Uint64(frame[:])
		if field == 0 {
			return good, nil
		}
		size, pad := int64(field&(1<<56-1)), int64(0)
		if field>>63 == 1 {
			pad = int64(field >> 56 & 7)
		}
		if size > maxRecord {
			return good, errTorn
		}
		if int64(cap(buf)) < size+pad {
			buf = make([]byte, size+pad)
		}
		buf = buf[:size+pad]
		if _, err := io.ReadFull(br, buf); err == io.EOF || err == io.ErrUnexpectedEOF {
			return good, errTorn
		} else if err != nil {
			return good, err
		}
		if err := s.record(buf[:size]); err != nil {
			return good, err
		}
		good += 8 + size + pad
	}
}

// record takes in a record. It is errTorn where it is not whole.
func (s *walState) record(data []byte) error {
	kind, sum, payload, ok := walRecord(data)
	if !ok {
		return errTorn
	}
	if kind == recordCRC {
		// The first segment's begins with 0, a later one's with the sum so far. Where
		// older segments were removed, the first that is there starts anew.
		if s.started && sum != s.crc {
			return errTorn
		}
		s.crc, s.started = sum, true
		return nil
	}
	crc := crc32.Update(s.crc, castagnoli, payload)
	if !s.started || crc != sum {
		return errTorn
	}
	var v [4]uint64 // the first numbers of the message, by their field
	if kind != recordMetadata && !fields(payload, func(n int, value uint64, _ []byte) {
		if n < len(v) {
			v[n] = value
		}
	}) {
		return errTorn
	}
	s.crc = crc
	var index uint64
	switch kind {
	case recordMetadata:
		s.metadata = true
	case recordEntry: // raftpb.Entry {1: type, 2: term, 3: index, 4: data}
		s.term, s.index = v[2], v[3]
		index = s.index
	case recordState: // raftpb.HardState {1: term, 2: vote, 3: commit}
		s.commit = v[3]
	case recordSnapshot: // walpb.Snapshot {1: index, 2: term, 3: members}
		if s.snapshots == nil {
			s.snapshots = make(map[uint64]bool)
		}
		index = v[1]
		s.snapshots[index] = true
	}
	if s.short == nil {
		return nil
	}
	return s.short.record(kind, index, payload)
}

// walRecord takes a walpb.Record apart.
func walRecord(data []byte) (kind uint64, crc uint32, payload []byte, ok bool) {
	ok = fields(data, func(n int, v uint64, b []byte) {
		switch n {
		case 1:
			kind = v
		case 2:
			crc = uint32(v)
		case 3:
			payload = b
		}
	})
	return kind, crc, payload, ok && kind != 0
}

// fields calls f for each field of a protobuf message: v for a number, b for
// bytes. It says whether the message is well-formed.
func fields(data []byte, f func(n int, v uint64, b []byte)) bool {
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return false
		}
		data = data[n:]
		number := int(tag >> 3)
		switch tag & 7 {
		case 0:
			v, n := binary.Uvarint(data)
			if n <= 0 {
				return false
			}
			data = data[n:]
			f(number, v, nil)
		case 1, 5:
			size := 8
			if tag&7 == 5 {
				size = 4
			}
			if len(data) < size {
				return false
			}
			data = data[size:]
		case 2:
			size, n := binary.Uvarint(data)
			if n <= 0 || size > uint64(len(data)-n) {
				return false
			}
			f(number, 0, data[n:][:size])
			data = data[n+int(size):]
		default:
			return false
		}
	}
	return true
}

// readSnapshot checks a snapshot file of etcd's (server/etcdserver/api/snap,
// snappb.Snapshot {1: crc, 2: data}): whole, or errTorn.
func readSnapshot(r io.Reader) error {
	br := bufio.NewReaderSize(r, 64<<10)
	field := func(want uint64) (uint64, error) {
		tag, err := binary.ReadUvarint(br)
		if err != nil || tag != want {
			return 0, errTorn
		}
		v, err := binary.ReadUvarint(br)
		if err != nil {
			return 0, errTorn
		}
		return v, nil
	}
	sum, err := field(1 << 3)
	if err != nil {
		return err
	}
	size, err := field(2<<3 | 2)
	if err != nil {
		return err
	}
	if size == 0 || size > 1<<40 {
		return errTorn
	}
	crc := crc32.New(castagnoli)
	n, err := io.Copy(crc, br)
	if err != nil {
		return fmt.Errorf("cannot read a snapshot: %w", err)
	}
	if uint64(n) != size || crc.Sum32() != uint32(sum) {
		return errTorn
	}
	return nil
}
