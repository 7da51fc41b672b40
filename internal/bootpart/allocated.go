package bootpart

// Allocated gives the ranges of the partition, in bytes from its start, that
// must be copied for the file system to be whole elsewhere: ascending,
// neighbours joined. They are the reserved sectors (boot sector, FSInfo and
// their backups among them), all copies of the FAT, whole, and every cluster
// that the FAT does not call free. Changes that were not flushed are counted
// as if they were. A visit that returns an error ends it.
func (f *FS) Allocated(visit func(offset, length int64) error) error {
	start, end := int64(0), f.geo.dataStart
	for c := uint32(2); c < f.geo.clusters+2; c++ {
		if f.fat.next(c) == 0 {
			continue
		}
		at := f.geo.offset(c)
		if at > end {
			if err := visit(start, end-start); err != nil {
				return err
			}
			start = at
		}
		end = at + f.geo.clusterSize
	}
	return visit(start, end-start)
}

// Size is the file system's length in bytes, from the partition's start: its
// last cluster ends there or less than a cluster before.
func (f *FS) Size() int64 { return f.geo.end }
