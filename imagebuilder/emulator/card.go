package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder"
	"hatchery/internal/atomicfile"
	"hatchery/internal/layer"
	"hatchery/internal/qcow2"
)

// A guest's card is a qcow2 file over the image, which QEMU opens read-only,
// with two files beside it:
//
//	p1.qcow2        what the guest wrote; of a layer, the layer's blocks too
//	p1.qcow2.json   what the card lies over: a cardRecord
//	p1.qcow2.image  a second name (hard link) of the raw image, while the card is in use
//
// The image is looked up when a card is made, and when a kept one is used
// again. A build meanwhile does no harm: where it would patch a raw image in
// place, it makes a new file instead as soon as the old one has a second name.
// Bases in the cache need none, since nothing there is written over.

// leastCard is the size that a card has at least, in bytes: images are made just
// so large that they fit, and the guest's engine needs room.
const leastCard = 2 << 30

// A cardRecord is what a card lies over.
type cardRecord struct {
	Image string `json:"image"` // as it was named
	Size  int64  `json:"size"`  // the card's, in bytes
	// Backing is the path by which the card knows its backing file, and Raw the
	// file's own: the image, or the base below layers.
	Backing string `json:"backing"`
	Raw     string `json:"raw"`
	// Digest names the content. Of a raw image it is "": that one is known by
	// its size in bytes and the time of its last change, in nanoseconds since 1970.
	Digest  digest.Digest `json:"digest,omitempty"`
	RawSize int64         `json:"raw_size"`
	ModTime int64         `json:"mod_time"`
}

func cardRecordPath(card string) string { return card + ".json" }
func cardImagePath(card string) string  { return card + ".image" }

// makeCard makes a fresh card at path over an image, in place of one that is
// there, and gives its size in bytes: the image's, and at least as many as said,
// rounded up to a power of two, as QEMU wants cards. The image must stay open
// for as long as the card is used; then comes leaveCard or removeCard. A second
// card over an image that stayed open is over the same content, whatever was
// built meanwhile.
func makeCard(ctx context.Context, path string, image *imagebuilder.OpenedImage, least int64) (size int64, err error) {
	if err := checkOurs(path); err != nil {
		return 0, err
	}
	if err := removeFiles(path, cardRecordPath(path)); err != nil {
		return 0, err
	}
	size, err = writeCard(ctx, path, image, least)
	if err != nil {
		removeCard(path)
		return 0, fmt.Errorf("cannot make a card over %s: %w", image.Name, err)
	}
	return size, nil
}

// checkOurs refuses a file in a card's place that no rig has made: an
// [*imagebuilder.InputError].
func checkOurs(path string) error {
	if _, err := os.Lstat(path); err != nil {
		return nil // nothing is in the way
	}
	if _, err := os.Lstat(cardRecordPath(path)); err != nil {
		return &imagebuilder.InputError{Err: fmt.Errorf("%s is not a card that hatchery boot has made: move it away, or name another folder with --dir", path)}
	}
	return nil
}

func writeCard(ctx context.Context, path string, image *imagebuilder.OpenedImage, least int64) (int64, error) {
	r, err := describe(image)
	if err != nil {
		return 0, err
	}
	want := max(image.Size(), least)
	if want > qcow2.MaxSize {
		return 0, &imagebuilder.InputError{Err: fmt.Errorf("a card of %d bytes is more than there are", want)}
	}
	r.Size = max(powerOfTwo(want), 512)
	r.Backing = r.Raw
	if r.Digest == "" {
		switch pin, err := pinImage(path, r.Raw, image.Parts().Info); {
		case err == nil:
			r.Backing = pin
		case !errors.Is(err, errNoPin):
			return 0, err
		}
	}
	if err := r.unchanged(); err != nil {
		return 0, err
	}
	o := qcow2.Options{Size: r.Size, Backing: r.Backing}
	if chain := image.Parts().Layers; chain != nil {
		var changed [][]layer.Extent
		for _, l := range chain.Layers {
			changed = append(changed, l.Extents())
		}
		o.Content = chain.Top()
		for _, e := range layer.Union(changed...) {
			o.Ranges = append(o.Ranges, qcow2.Range{Offset: e.Offset, Length: e.Length})
		}
	}
	// The record first, since a card without one is refused.
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return 0, err
	}
	if err := atomicfile.WriteBytes(cardRecordPath(path), append(data, '\n'), 0o600); err != nil {
		return 0, err
	}
	return r.Size, qcow2.Create(ctx, path, o)
}

// errNoPin says that a file gets no second name, as across file systems. It must
// do without, and checkCard tells when it was written to.
var errNoPin = errors.New("the image cannot have a second name")

// pinImage gives the image that was opened a second name beside the card, if
// it has not got that, and tells it.
func pinImage(card, raw string, opened fs.FileInfo) (pin string, err error) {
	if pin, err = filepath.Abs(cardImagePath(card)); err != nil {
		return "", err
	}
	if info, err := os.Lstat(pin); err == nil && os.SameFile(info, opened) {
		return pin, nil
	}
	if err := removeFiles(pin); err != nil {
		return "", err
	}
	if err := os.Link(raw, pin); err != nil {
		return "", fmt.Errorf("%w: %w", errNoPin, err)
	}
	return pin, nil
}

// describe says what a card over an image would lie over.
func describe(image *imagebuilder.OpenedImage) (*cardRecord, error) {
	parts := image.Parts()
	if !parts.Info.Mode().IsRegular() {
		return nil, &imagebuilder.InputError{Err: fmt.Errorf("%s is a device: only images in files can be booted here", image.Name)}
	}
	// A second name of a symbolic link would be one of the link.
	file, err := filepath.EvalSymlinks(parts.Raw)
	if err == nil {
		file, err = filepath.Abs(file)
	}
	if err != nil {
		return nil, err
	}
	return &cardRecord{
		Image: image.Name, Raw: file, Digest: parts.Digest,
		RawSize: parts.Info.Size(), ModTime: parts.Info.ModTime().UnixNano(),
	}, nil
}

// powerOfTwo gives the least power of two that is not below n.
func powerOfTwo(n int64) int64 { return 1 << bits.Len64(uint64(max(n, 1)-1)) }

// keptCard makes a card that was left at path ready to be used again over the
// same image, which must stay open, and gives the card's size in bytes. The
// error matches [fs.ErrNotExist] where there is no card, and is an
// [*imagebuilder.InputError] where it was made over something else: what the
// guest wrote would be mixed with blocks that it never saw.
func keptCard(path string, image *imagebuilder.OpenedImage) (size int64, err error) {
	if _, err := os.Stat(path); err != nil {
		return 0, err
	}
	refuse := func(reason string) (int64, error) {
		return 0, &imagebuilder.InputError{Err: fmt.Errorf("the card %s cannot be used again: %s: throw it away (hatchery boot --fresh), and %s is booted afresh", path, reason, image.Name)}
	}
	was, err := readCardRecord(path)
	if err != nil {
		return refuse(err.Error())
	}
	is, err := describe(image)
	if err != nil {
		return 0, err
	}
	switch {
	case was.Digest != is.Digest, was.RawSize != is.RawSize, is.Digest == "" && was.ModTime != is.ModTime:
		return refuse(fmt.Sprintf("%s has changed since it was made", was.Image))
	case was.Backing != is.Raw:
		if is.Digest != "" {
			return refuse(fmt.Sprintf("it lies over %s, and the image is %s now", was.Backing, is.Raw))
		}
		pin, err := pinImage(path, is.Raw, image.Parts().Info)
		if err != nil {
			return refuse(err.Error())
		}
		if was.Backing != pin {
			return refuse("it was made elsewhere, over " + was.Backing)
		}
	}
	if err := was.unchanged(); err != nil {
		return refuse(err.Error())
	}
	return was.Size, nil
}

// checkCard tells whether the image below a card is still what the card was
// made over: a [*changedImageError] where somebody wrote to it. It costs no
// more than a look at the file's times.
func checkCard(path string) error {
	r, err := readCardRecord(path)
	if err != nil {
		return err
	}
	return r.unchanged()
}

// leaveCard ends the use of a card that is kept: builds may write to its image
// again, and then it is refused. QEMU must have ended.
func leaveCard(path string) error { return removeFiles(cardImagePath(path)) }

// removeCard throws a card away, if there is one. QEMU must have ended.
func removeCard(path string) error {
	return removeFiles(path, cardRecordPath(path), cardImagePath(path))
}

func removeFiles(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readCardRecord reads what a card lies over.
func readCardRecord(card string) (*cardRecord, error) {
	data, err := os.ReadFile(cardRecordPath(card))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("nothing says what it was made over")
	}
	if err != nil {
		return nil, err
	}
	var r cardRecord
	if err := json.Unmarshal(data, &r); err != nil || r.Backing == "" || r.Size <= 0 {
		return nil, fmt.Errorf("%s does not say what it was made over", cardRecordPath(card))
	}
	return &r, nil
}

// A changedImageError says that an image is not any more what a card was made
// over.
type changedImageError struct{ image, reason string }

func (e *changedImageError) Error() string { return e.image + " " + e.reason }

// unchanged looks whether the card's backing file still is what it was. A file
// of the cache is believed to be, if it is there: nothing is written over in it.
func (r *cardRecord) unchanged() error {
	info, err := os.Stat(r.Backing)
	if errors.Is(err, fs.ErrNotExist) {
		return &changedImageError{r.Image, fmt.Sprintf("is gone, or what it lies over is (%s)", r.Backing)}
	}
	if err != nil {
		return err
	}
	if info.Size() != r.RawSize || r.Digest == "" && info.ModTime().UnixNano() != r.ModTime {
		return &changedImageError{r.Image, "was written to while it was being booted: boot it afresh, and leave it alone meanwhile"}
	}
	return nil
}
