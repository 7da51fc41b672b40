package store

// OnStep has f called at each step of what must survive a kill.
func (s *Store) OnStep(f func(step string)) { s.hook = f }

var (
	DecodeState = decodeState
	EncodeState = encodeState
)

const (
	MarkSize  = markSize
	MarkEvery = markEvery
)

// Remark decodes a mark and encodes it again.
func Remark(p []byte) ([]byte, bool) {
	m, ok := decodeMark(p)
	if !ok {
		return nil, false
	}
	return m.encode(), true
}

// Free is what is free where a folder lies.
func Free(dir string) (int64, error) {
	free, _, err := fileSystem(dir)
	return free, err
}

// OpenParts is how many bases and layers are open.
func (s *Store) OpenParts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parts)
}
