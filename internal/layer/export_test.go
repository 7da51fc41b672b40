package layer

// File is the seam between a layer and its file.
type File = file

// CreateOn is Create on a file of the test's own.
func CreateOn(f File, parent Parent, size int64) (*Layer, error) {
	h, err := newHeader(parent, size)
	if err != nil {
		return nil, err
	}
	return create(f, parent, h)
}

// OpenOn is Open on a file of the test's own.
func OpenOn(f File, parent Parent) (*Layer, error) { return load(f, parent) }

// Segments gives the length of the map's chain on disk.
func (l *Layer) Segments() int {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	return len(l.chain)
}

// FileBlocks gives how many blocks of the file were ever in use at once.
func (l *Layer) FileBlocks() int64 {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.space.end
}
