package xz

import (
	"bufio"
	"errors"
	"io"
)

// An input reads the compressed bytes and knows where it stands.
type input struct {
	r      *bufio.Reader
	offset int64 // in the xz file, of the next byte
}

// readBuffer is the size of the reads from the source, in bytes: a chunk of
// LZMA2 data.
const readBuffer = maxChunkIn

func (in *input) ReadByte() (byte, error) {
	b, err := in.r.ReadByte()
	if err != nil {
		return 0, in.failed(err)
	}
	in.offset++
	return b, nil
}

func (in *input) readFull(p []byte) error {
	n, err := io.ReadFull(in.r, p)
	in.offset += int64(n)
	if err != nil {
		return in.failed(err)
	}
	return nil
}

// failed turns the source's end into what it means here: the file stops in
// the midst of something.
func (in *input) failed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{Kind: ErrTruncated, Offset: in.offset}
	}
	return err
}
