package reimage

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"hatchery/internal/enrol"
	"hatchery/internal/ext4"
	"hatchery/internal/parttable"
	"hatchery/netboot/store"
)

// ErrOld says that an image has a certificate that is refused.
var ErrOld = errors.New("its image has an older certificate")

// An OldError says which.
type OldError struct{ Slot, Generation, Least int }

func (e *OldError) Error() string {
	return fmt.Sprintf("the image that this controller has for p%[1]d has a certificate of generation %[2]d, and those below %[3]d are refused: push it first (hatchery push p%[1]d, with what was built last)",
		e.Slot, e.Generation, e.Least)
}

// Is matches [ErrOld].
func (e *OldError) Is(target error) bool { return target == ErrOld }

// maxCertificate is more than a certificate takes, in bytes.
const maxCertificate = 64 << 10

// certificatePlace is where a root has its node's, as enrol.LoadIdentity reads it.
const certificatePlace = enrol.IdentityDir + "/certificate.pem"

// generation reads the generation of the certificate in an image; 0 where it has none that
// can be read, as one that was not built by hatchery. The error says that the image is
// another slot's.
func generation(image *store.Image, slot int) (int, error) {
	peer, err := peerOf(image, image.Size())
	if err != nil {
		return 0, nil
	}
	if peer.Slot != slot {
		return 0, fmt.Errorf("what this controller has for p%d is the image of p%d: push the slot's own (hatchery push p%d)", slot, peer.Slot, slot)
	}
	return peer.Generation, nil
}

func peerOf(image io.ReaderAt, size int64) (p enrol.Peer, err error) {
	table, err := parttable.Read(image, size)
	if err != nil {
		return p, err
	}
	root := table.Partition(parttable.Root)
	fs, err := ext4.OpenLenient(root.Reader(image), root.Size)
	if err != nil {
		return p, err
	}
	f, err := fs.OpenFile(certificatePlace)
	if err != nil {
		return p, err
	}
	if f.Size() > maxCertificate {
		return p, fmt.Errorf("%s has %d bytes", certificatePlace, f.Size())
	}
	data := make([]byte, f.Size())
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return p, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return p, fmt.Errorf("%s is none", certificatePlace)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return p, err
	}
	return enrol.PeerOf(certificate)
}

// generationOf is that of a root; 0 where nobody knows.
func (s *Service) generationOf(r *store.Root) int {
	image, err := s.o.Store.Image(*r)
	if err != nil {
		return 0
	}
	defer image.Close()
	g, err := generation(image, r.Slot)
	if err != nil {
		return 0
	}
	return g
}

// GenerationOf is the generation of the certificate in a root's image, whatever the slot
// boots from; 0 where it has none, or nobody knows.
func (s *Service) GenerationOf(r store.Root) int { return s.generationOf(&r) }

// young says whether a generation would be refused: a node that has it could not join.
func (s *Service) young(slot, generation int) error {
	least := s.targets[slot].Generation
	if s.o.Least != nil {
		least = max(least, s.o.Least(slot))
	}
	if generation > 0 && generation < least {
		return &OldError{slot, generation, least}
	}
	return nil
}

// admitted says why a root cannot be written although it is there: it is another slot's, or
// its node would be refused.
func (s *Service) admitted(r *store.Root) error {
	image, err := s.o.Store.Image(*r)
	if err != nil {
		return err
	}
	defer image.Close()
	g, err := generation(image, r.Slot)
	if err != nil {
		return err
	}
	return s.young(r.Slot, g)
}
