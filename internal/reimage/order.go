package reimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"

	"hatchery/internal/clusterctrl"
)

// How an order lies on a card: two copies, each in its half of the place, so that a
// write that is torn leaves one of them.
//
//	0   orderMagic
//	24  uint64, big-endian: the copy's number; of two whole copies the higher counts
//	32  uint32, big-endian: the length of the JSON
//	40  SHA-256 of the bytes 0 to 40 and of the JSON
//	72  the JSON of an Order
const (
	copySize   = OrderSize / 2
	numberAt   = 24
	lengthAt   = 32
	sumAt      = 40
	jsonAt     = sumAt + sha256.Size
	largestPEM = 8 << 10 // of each of the identity's parts, in bytes
)

// MaxText is the most of a word that people read, in bytes.
const MaxText = 256

// A VersionError says that an order is of a form that this program does not know: it
// was written by another version of hatchery.
type VersionError struct{ Version int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the card's order has version %d, and this program knows %d", e.Version, OrderVersion)
}

// LogValue keeps the key out of logs.
func (o Order) LogValue() slog.Value {
	return slog.GroupValue(slog.String("operation", o.Operation), slog.Int("slot", o.Slot), slog.String("cluster", o.Cluster), slog.Int("attempt", o.Attempt))
}

// String keeps the key out of what is printed.
func (o Order) String() string {
	return fmt.Sprintf("order %s for slot %d of %s, attempt %d", o.Operation, o.Slot, o.Cluster, o.Attempt)
}

// Check says what is wrong with an order's form. Whether the identity is one, its
// reader finds.
func (o *Order) Check() error {
	if o.Version != OrderVersion {
		return &VersionError{o.Version}
	}
	if o.Slot < clusterctrl.MinSlot || o.Slot > clusterctrl.MaxSlot {
		return fmt.Errorf("the order is for slot %d, which is none", o.Slot)
	}
	if o.Attempt < 0 {
		return fmt.Errorf("the order counts %d attempts", o.Attempt)
	}
	for _, text := range []string{o.Operation, o.Cluster, o.Gadget} {
		if len(text) > MaxText {
			return fmt.Errorf("a word of %d bytes in the order is longer than %d", len(text), MaxText)
		}
	}
	if a, err := netip.ParseAddr(o.Controller); err != nil || !a.Is4() {
		return fmt.Errorf("the order's controller %.40q is no IPv4 address", o.Controller)
	}
	if p, err := netip.ParsePrefix(o.Address); err != nil || !p.Addr().Is4() {
		return fmt.Errorf("the order's address %.40q is no IPv4 address with its prefix length", o.Address)
	}
	for _, part := range []struct{ what, pem string }{{"key", o.Key}, {"certificate", o.Certificate}, {"CA", o.CA}} {
		if part.pem == "" || len(part.pem) > largestPEM {
			return fmt.Errorf("the order's %s has %d bytes, and should have 1 to %d", part.what, len(part.pem), largestPEM)
		}
	}
	return nil
}

// ReadOrder reads the order on a card. The error is ErrNoOrder where there is none,
// or none whole; a *VersionError where another version of hatchery wrote it; or the
// card's.
func ReadOrder(card io.ReaderAt) (*Order, error) {
	o, _, _, err := readOrder(card)
	return o, err
}

// readOrder gives the newest whole copy, which half it is in (-1: none), and its number.
func readOrder(card io.ReaderAt) (newest *Order, half int, number uint64, err error) {
	half = -1
	var damaged bool
	var failed, unknown error
	raw := make([]byte, copySize)
	for h := range 2 {
		n, err := card.ReadAt(raw, OrderPlace+int64(h)*copySize)
		if n < len(raw) && errors.Is(err, io.EOF) {
			continue // a card this small holds none
		}
		if n < len(raw) {
			// The other copy may be readable still.
			failed = errors.Join(failed, fmt.Errorf("cannot read the card's order: %w", err))
			continue
		}
		o, num, err := parseCopy(raw)
		switch {
		case errors.Is(err, ErrNoOrder):
		case errors.Is(err, errDamaged):
			damaged = true
		case half < 0 || num > number:
			newest, half, number, unknown = o, h, num, err
		}
	}
	switch {
	case half >= 0: // unknown is why its content is none
		return newest, half, number, unknown
	case failed != nil:
		return nil, -1, 0, failed
	case damaged:
		return nil, -1, 0, fmt.Errorf("%w: what is there is damaged", ErrNoOrder)
	}
	return nil, -1, 0, ErrNoOrder
}

var errDamaged = errors.New("a damaged copy")

// parseCopy reads one copy: a whole one whose content is not known has a number and
// an error.
func parseCopy(raw []byte) (*Order, uint64, error) {
	if len(raw) < jsonAt || !bytes.HasPrefix(raw, []byte(orderMagic)) {
		return nil, 0, ErrNoOrder
	}
	number, length := binary.BigEndian.Uint64(raw[numberAt:]), binary.BigEndian.Uint32(raw[lengthAt:])
	if int64(length) > int64(len(raw)-jsonAt) {
		return nil, 0, errDamaged
	}
	body := raw[jsonAt : jsonAt+int(length)]
	if sumOfCopy(raw[:sumAt], body) != [sha256.Size]byte(raw[sumAt:jsonAt]) {
		return nil, 0, errDamaged
	}
	o := new(Order)
	if err := json.Unmarshal(body, o); err != nil {
		return nil, number, fmt.Errorf("the card's order cannot be read: %w", err)
	}
	if err := o.Check(); err != nil {
		return nil, number, err
	}
	return o, number, nil
}

func sumOfCopy(head, body []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(head)
	h.Write(body)
	h.Sum(sum[:0])
	return sum
}

func appendCopy(o *Order, number uint64) ([]byte, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	if len(body) > copySize-jsonAt {
		return nil, fmt.Errorf("the order has %d bytes, and there is room for %d", len(body), copySize-jsonAt)
	}
	raw := make([]byte, copySize)
	copy(raw, orderMagic)
	binary.BigEndian.PutUint64(raw[numberAt:], number)
	binary.BigEndian.PutUint32(raw[lengthAt:], uint32(len(body)))
	sum := sumOfCopy(raw[:sumAt], body)
	copy(raw[sumAt:], sum[:])
	copy(raw[jsonAt:], body)
	return raw, nil
}

// A Card is what an order is written to. One that has a method Sync() error is synced
// after each copy.
type Card interface {
	io.ReaderAt
	io.WriterAt
}

// WriteOrder writes an order to a card, over the one that is there. A write that is
// cut off leaves the old order or the new one. Where none is, the error is a *ForeignError
// if something else is in its place (see [CheckPlace]).
func WriteOrder(card Card, o *Order) error {
	if err := o.Check(); err != nil {
		return err
	}
	_, half, number, err := readOrder(card)
	if err != nil && half < 0 && !errors.Is(err, ErrNoOrder) {
		return err
	}
	if half < 0 {
		if err := CheckPlace(card); err != nil {
			return err
		}
	}
	raw, err := appendCopy(o, number+1)
	if err != nil {
		return err
	}
	// The half that is not needed first; of none the second, so that an order is whole
	// before what an earlier flash has left in the first is written over.
	for i := range 2 {
		h := (max(half, 0) + 1 + i) % 2
		if err := writeHalf(card, h, raw); err != nil {
			return fmt.Errorf("cannot write the order to the card: %w", err)
		}
	}
	return nil
}

// WipeOrder removes an order from a card, with the key that is in it. One that is cut
// off may leave the order, whole.
func WipeOrder(card Card) error {
	_, half, _, err := readOrder(card)
	if err != nil && half < 0 && !errors.Is(err, ErrNoOrder) {
		return err
	}
	zeros := make([]byte, copySize)
	for i := range 2 {
		if err := writeHalf(card, (max(half, 0)+1+i)%2, zeros); err != nil {
			return fmt.Errorf("cannot wipe the order off the card: %w", err)
		}
	}
	return nil
}

func writeHalf(card Card, half int, raw []byte) error {
	if _, err := card.WriteAt(raw, OrderPlace+int64(half)*copySize); err != nil {
		return err
	}
	if s, ok := card.(interface{ Sync() error }); ok {
		return s.Sync()
	}
	return nil
}

// Heads are where the copies of an order begin on a card, in bytes.
func Heads() [2]int64 { return [2]int64{OrderPlace, OrderPlace + copySize} }

// IsOrder says whether what was read from such a place begins an order, be it damaged.
func IsOrder(head []byte) bool { return bytes.HasPrefix(head, []byte(orderMagic)) }
