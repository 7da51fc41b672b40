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

// CreateJournaledOn is CreateJournaled on a file of the test's own.
func CreateJournaledOn(f File, parent Parent, size int64, j Journal) (*Layer, error) {
	l, err := CreateOn(f, parent, size)
	if err == nil {
		err = l.keep(j)
	}
	return l, err
}

// OpenJournaledOn is OpenJournaled on a file of the test's own.
func OpenJournaledOn(f File, parent Parent, j Journal) (*Layer, error) {
	l, err := load(f, parent)
	if err == nil && !l.Sealed() {
		err = l.keep(j)
	}
	return l, err
}

// Die lets go of a layer's files as a kill does.
func (l *Layer) Die() {
	l.closed = true
	if l.journal != nil {
		l.journal.close()
	}
	l.file.Close()
}

// Generation gives the number of the state on disk.
func (l *Layer) Generation() uint64 {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	return l.generation
}

// FreeToWrite gives how many records the journal takes; none while writers wait.
func (l *Layer) FreeToWrite() int64 {
	if !l.writing.TryLock() {
		return 0
	}
	defer l.writing.Unlock()
	return l.journal.room()
}
