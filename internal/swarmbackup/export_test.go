package swarmbackup

import "io"

// ErrTorn is told to tests.
var ErrTorn = errTorn

// ReadLog reads the segments of a log, and gives how much of the last is whole.
func ReadLog(segments ...io.Reader) (good int64, term, index, commit uint64, err error) {
	var s walState
	for _, r := range segments {
		if good, err = s.readSegment(r); err != nil {
			break
		}
	}
	return good, s.term, s.index, s.commit, err
}

// ReadSnapshot reads a snapshot.
var ReadSnapshot = readSnapshot

// NewestFirst sorts offers.
