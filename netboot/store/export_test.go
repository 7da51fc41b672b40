package store

// OnStep has f called at each step of what must survive a kill.
func (s *Store) OnStep(f func(step string)) { s.hook = f }

var (
	DecodeState = decodeState
	EncodeState = encodeState
)

const (
	MarkSize        = markSize
	CheckpointEvery = checkpointEvery
)

// Remark decodes a mark and encodes it again.
func Remark(p []byte) ([]byte, bool) {
	m, ok := decodeMark(p)
	if !ok {
		return nil, false
	}
	return m.encode(), true
}

// OpenParts is how many bases and layers are open.
func (s *Store) OpenParts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parts)
}
