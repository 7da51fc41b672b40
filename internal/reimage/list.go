package reimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// A List is the list of an image's pieces.
type List struct {
	Size int64 // the image's, bytes
	// BootStart and BootSize are the boot partition's place in bytes.
	BootStart, BootSize int64
	// Sums are the digests of the pieces, DigestSize bytes each, in order.
	Sums []byte
}

// How a list goes over the wire:
//
//	0   listMagic
//	24  four uint64, big-endian: size, the boot partition's start and size, and Piece
//	56  the digests
const (
	listMagic  = "hatchery pieces 1\n"
	listHeader = 56
	// MaxSize is the largest image, in bytes: its list has 16 MiB.
	MaxSize = 64 << 30
	// MaxList is the longest list, in bytes.
	MaxList = listHeader + MaxSize/Piece*DigestSize
)

// ErrBadList says that something is no list of the image that it should be of.
var ErrBadList = errors.New("this is not the list of the image's pieces")

// PieceCount is how many pieces an image of a size has.
func PieceCount(size int64) int { return int((size + Piece - 1) / Piece) }

// Len is how many pieces there are.
func (l *List) Len() int { return len(l.Sums) / DigestSize }

// Sum is the digest of a piece.
func (l *List) Sum(i int) [DigestSize]byte {
	return [DigestSize]byte(l.Sums[i*DigestSize : (i+1)*DigestSize])
}

// Free says that no file system of the image uses the piece: what the card has there
// stays.
func (l *List) Free(i int) bool { return l.Sum(i) == [DigestSize]byte{} }

// HoldsOrder says whether a piece is where the order lies: such a one is always free.
func HoldsOrder(i int) bool {
	at := int64(i) * Piece
	return at < OrderPlace+OrderSize && at+Piece > OrderPlace
}

// Span is a piece's place in bytes: Piece of them, but for the last one.
func (l *List) Span(i int) (offset int64, length int) {
	offset = int64(i) * Piece
	return offset, int(min(Piece, l.Size-offset))
}

// Image gives what a controller says of the list.
func (l *List) Image(operation string) *Image {
	sum := sha256.Sum256(AppendList(nil, l))
	return &Image{Size: l.Size, List: hex.EncodeToString(sum[:]), BootStart: l.BootStart, BootSize: l.BootSize, Operation: operation}
}

// AppendList appends a list as it goes over the wire.
func AppendList(b []byte, l *List) []byte {
	var head [listHeader]byte
	copy(head[:], listMagic)
	for i, n := range []int64{l.Size, l.BootStart, l.BootSize, Piece} {
		binary.BigEndian.PutUint64(head[24+8*i:], uint64(n))
	}
	return append(append(b, head[:]...), l.Sums...)
}

// ParseList reads a list, and compares it with what the controller said of the image;
// an image of nil is not compared. The list holds on to raw. The error is ErrBadList.
func ParseList(raw []byte, image *Image) (*List, error) {
	if len(raw) < listHeader || len(raw) > MaxList || !bytes.HasPrefix(raw, []byte(listMagic)) {
		return nil, fmt.Errorf("%w: it has %d bytes, or another beginning", ErrBadList, len(raw))
	}
	field := func(i int) int64 { return int64(binary.BigEndian.Uint64(raw[24+8*i:])) }
	l := &List{Size: field(0), BootStart: field(1), BootSize: field(2), Sums: raw[listHeader:]}
	if !bytes.Equal(raw[len(listMagic):24], make([]byte, 24-len(listMagic))) {
		return nil, fmt.Errorf("%w: it has another beginning", ErrBadList)
	}
	if p := field(3); p != Piece {
		return nil, fmt.Errorf("%w: its pieces have %d bytes, and should have %d", ErrBadList, p, Piece)
	}
	if err := checkPlaces(l.Size, l.BootStart, l.BootSize); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadList, err)
	}
	if len(l.Sums) != PieceCount(l.Size)*DigestSize {
		return nil, fmt.Errorf("%w: %d bytes of digests are not those of an image of %d bytes", ErrBadList, len(l.Sums), l.Size)
	}
	for i := range l.Len() {
		if HoldsOrder(i) && !l.Free(i) {
			return nil, fmt.Errorf("%w: it has something where the order lies", ErrBadList)
		}
	}
	if image == nil {
		return l, nil
	}
	want, err := ParseDigest(image.List)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadList, err)
	}
	if sha256.Sum256(raw) != want {
		return nil, fmt.Errorf("%w: it has another digest", ErrBadList)
	}
	if l.Size != image.Size || l.BootStart != image.BootStart || l.BootSize != image.BootSize {
		return nil, fmt.Errorf("%w: it is of an image of another size, or with its boot partition elsewhere", ErrBadList)
	}
	return l, nil
}

// Check says what is wrong with what a controller said of an image.
func (m *Image) Check() error {
	if _, err := ParseDigest(m.List); err != nil {
		return err
	}
	if len(m.Operation) > MaxText {
		return fmt.Errorf("an operation's name of %d bytes is longer than %d", len(m.Operation), MaxText)
	}
	return checkPlaces(m.Size, m.BootStart, m.BootSize)
}

// checkPlaces judges where a boot partition is: in no piece that has the order.
func checkPlaces(size, start, length int64) error {
	const sector = 512
	switch {
	case size <= 0 || size > MaxSize || size%sector != 0:
		return fmt.Errorf("an image cannot have %d bytes", size)
	case start < OrderPlace+max(OrderSize, Piece) || length <= 0 || start > size || length > size-start || start%sector != 0 || length%sector != 0:
		return fmt.Errorf("a boot partition of %d bytes cannot be at byte %d of an image of %d bytes", length, start, size)
	}
	return nil
}
