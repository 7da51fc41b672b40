package sparse

import (
	"io"
	"os"
	"sync"
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// through copies a range by way of memory; where dst reads as zeros it leaves
// out what is zero.
func (c *copier) through(off, n int64) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for n > 0 {
		p := buf[:min(n, bufferSize)]
		if _, err := io.ReadFull(io.NewSectionReader(c.src, off, n), p); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return &os.PathError{Op: "read", Path: c.src.Name(), Err: err}
		}
		var err error
		if c.over {
			_, err = c.dst.WriteAt(p, off+c.shift)
		} else {
			err = writeData(c.dst, p, off+c.shift)
		}
		if err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

// writeData writes the blocks of p that are not zero, neighbours at once.
func writeData(dst io.WriterAt, p []byte, off int64) error {
	for len(p) > 0 {
		skip := run(p, off, true)
		p, off = p[skip:], off+int64(skip)
		if len(p) == 0 {
			return nil
		}
		n := run(p, off, false)
		if _, err := dst.WriteAt(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// run gives the length of the longest beginning of p, which belongs at off in
// its file, whose blocks are all zero or all not zero.
func run(p []byte, off int64, zero bool) int {
	n := 0
	for n < len(p) {
		block := min(BlockSize-int(off%BlockSize), len(p)-n)
		if IsZero(p[n:n+block]) != zero {
			break
		}
		n, off = n+block, off+int64(block)
	}
	return n
}
