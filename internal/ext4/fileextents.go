package ext4

// A FileExtent is where a run of a file's content lies, in bytes.
type FileExtent struct {
	Logical   int64 // in the file
	Physical  int64 // in the file system
	Length    int64 // whole blocks
	Unwritten bool  // it reads as zeros, whatever lies there
}

// Extents gives where the file's content lies, in its order. What is between
// them are holes.
func (f *File) Extents() []FileExtent {
	block := f.fs.blockSize
	extents := make([]FileExtent, len(f.m.extents))
	for i, e := range f.m.extents {
		extents[i] = FileExtent{int64(e.lblk) * block, int64(e.pblk) * block, int64(e.n) * block, e.unwritten}
	}
	return extents
}
