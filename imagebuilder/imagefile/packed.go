package imagefile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"

	"hatchery/imagebuilder/filekind"
	"hatchery/imagebuilder/flash"
	"hatchery/internal/xz"
)

// packed is a compressed image.
type packed struct {
	*image
	format filekind.Format
}

// openPacked opens a compressed image: its size is that of its block map, or
// what the compressed file says of it, or is counted.
func (i *image) openPacked(ctx context.Context, format filekind.Format) (Source, error) {
	p := packed{i, format}
	head, err := p.head(ctx)
	if err != nil {
		return nil, err
	}
	size, err := p.contentSize(ctx)
	if err != nil {
		return nil, err
	}
	if err := i.loadBlockMap(size); err != nil {
		return nil, err
	}
	switch {
	case i.m != nil:
		size = i.m.ImageSize
	case size >= 0:
		if i.m, err = mapWhole(size); err != nil {
			return nil, &InputError{i.path, err}
		}
	default:
		if err := p.count(ctx); err != nil {
			return nil, err
		}
		size = i.m.ImageSize
	}
	if err := i.checkImage(head, size); err != nil {
		return nil, err
	}
	if i.mapPath == "" {
		i.warn("there is no block map beside %s, so all %d MiB of the image are written, free space too", i.Name(), (size+1<<20-1)>>20)
	}
	return p, nil
}

// head gives the beginning of the content, and refuses what begins no image.
func (p packed) head(ctx context.Context) ([]byte, error) {
	var head []byte
	err := p.stream(ctx, func(b []byte) error {
		head = append(head, b[:min(len(b), filekind.HeadSize-len(head))]...)
		if len(head) == filekind.HeadSize {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	switch k := filekind.Of(head); {
	case k.Format == filekind.Raw:
		return head, nil
	case k.Image():
		return nil, p.bad("it is compressed twice: unpack it once first")
	default:
		return nil, p.bad("what is compressed in it %s", k.Is())
	}
}

var errEnough = errors.New("enough was seen")

// contentSize gives the size of the content where the file tells it reliably,
// or -1.
func (p packed) contentSize(ctx context.Context) (int64, error) {
	size := int64(-1)
	var err error
	switch p.format {
	case filekind.XZ:
		if size, err = xz.UncompressedSize(p.f, p.size); err != nil {
			return 0, p.damaged(err, 0)
		}
	case filekind.Zstd:
		if size, err = zstdSize(ctx, p.f, p.size); err != nil {
			return 0, p.damaged(err, 0)
		}
	case filekind.Zip:
		member, err := imageInZip(p.f, p.size)
		if err != nil {
			return 0, p.damaged(err, 0)
		}
		if size = int64(member.UncompressedSize64); size < 0 {
			return 0, &InputError{p.path, errTooLarge}
		}
	}
	return size, nil
}

// count reads all of the content once, where its size is not known otherwise
// (what .gz files say of it is the size's last 32 bits): the pieces get
// checksums on the way, and what is damaged shows before the card is touched.
func (p packed) count(ctx context.Context) (err error) {
	task := p.options.Progress.Begin("read through "+p.Name(), p.size)
	defer func() { task.End(err) }()
	var sums []string
	sum, left, total := sha256.New(), flash.PieceSize, int64(0)
	seal := func() {
		sums = append(sums, hex.EncodeToString(sum.Sum(nil)))
		sum.Reset()
		left = flash.PieceSize
	}
	err = p.streamCounted(ctx, task.Add, func(b []byte) error {
		total += int64(len(b))
		for len(b) > 0 {
			n := min(left, len(b))
			sum.Write(b[:n])
			b, left = b[n:], left-n
			if left == 0 {
				seal()
			}
		}
		if len(sums) > maxPieces {
			return &InputError{p.path, errTooLarge}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if left < flash.PieceSize {
		seal()
	}
	if p.m, err = mapWhole(total); err != nil {
		return &InputError{p.path, err}
	}
	for k := range p.m.Ranges {
		p.m.Ranges[k].Checksum = sums[k]
	}
	return nil
}

// maxWorkers bounds how many blocks of an .xz file are decoded at a time: more
// are faster than cards are, and would wait for each other.
const maxWorkers = 4

// Pieces implements [flash.Source].
func (p packed) Pieces(ctx context.Context, wanted []int, give func(i int, content []byte) error) error {
	if p.format == filekind.XZ {
		return p.pieces(ctx, wanted, give, p.decodeXZ)
	}
	return p.pieces(ctx, wanted, give, func(ctx context.Context, g *gathering) error {
		at := int64(0)
		err := p.stream(ctx, func(b []byte) error {
			if int64(len(b)) > p.m.ImageSize-at {
				return p.otherSize("more than")
			}
			_, err := g.WriteAt(b, at)
			at += int64(len(b))
			return err
		})
		if err == nil && at < p.m.ImageSize {
			return p.otherSize(fmt.Sprintf("%d bytes, and not", at))
		}
		return err
	})
}

// otherSize says that the content has another size than it should.
func (p packed) otherSize(has string) error {
	if p.mapPath == "" {
		return p.bad("the image in it has %s the %d bytes that the file says; %s", has, p.m.ImageSize, again)
	}
	return p.bad("the image in it has %s the %d bytes of its block map %s; %s", has, p.m.ImageSize, p.mapPath, withoutMap)
}

// decodeXZ decodes blocks in parallel.
func (p packed) decodeXZ(ctx context.Context, g *gathering) error {
	_, err := xz.Decode(ctx, p.f, p.size, g, xz.Options{
		Workers:     min(maxWorkers, runtime.GOMAXPROCS(0)),
		MemoryLimit: p.options.Memory / 4 * 3,
		Skip:        func(offset, length int64) bool { return !g.wants(offset, length) },
	})
	var e *xz.Error
	if errors.As(err, &e) {
		return p.damaged(err, 0)
	}
	return err
}
