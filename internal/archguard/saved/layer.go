package saved

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"hatchery/internal/cpu"
)

// A layer is what is known of one: its programs, and what it lays over those
// below.
type layer struct {
	programs []program
	over     map[string]cover
}

type program struct {
	path  string
	needs cpu.Program
}

// A cover is what a layer has at a path.
type cover uint8

const (
	file   cover = 1 << iota // no folder
	folder                   // it leaves what lower layers have in it
	gone                     // what lower layers have there is removed
	empty                    // a folder of which nothing of lower layers is left
)

// Names of a layer's files that remove something from the layers below (OCI
// Image Layer Filesystem Changeset).
const (
	whiteout = ".wh."
	aufs     = ".wh..wh."
	opaque   = ".wh..wh..opq"
)

// hides says whether what a lower layer has at a path is not seen any more.
func (l *layer) hides(at string) bool {
	if l.over[at] != 0 {
		return true
	}
	for at = path.Dir(at); ; at = path.Dir(at) {
		if l.over[at]&(file|gone|empty) != 0 {
			return true
		}
		if at == "/" {
			return false
		}
	}
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	elfMagic  = []byte("\x7fELF")
)

// isLayer tells by its first bytes whether a file is a tar, packed or not. One
// without files is of zeros.
func isLayer(head []byte) bool {
	return bytes.HasPrefix(head, gzipMagic) || bytes.HasPrefix(head, zstdMagic) ||
		len(head) >= 262 && string(head[257:262]) == "ustar" || len(head) == 512 && len(bytes.Trim(head, "\x00")) == 0
}

// layer reads a layer's tar.
func (r *reading) layer(packed io.Reader, head []byte) (*layer, error) {
	text := packed
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		z, err := gzip.NewReader(packed)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		text = z
	case bytes.HasPrefix(head, zstdMagic):
		z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		text = z
	}
	l := &layer{over: map[string]cover{}}
	t := tar.NewReader(&counted{r, text})
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err == nil {
			err = r.count(h.Name)
		}
		if err != nil {
			return nil, err
		}
		if err := r.entry(l, h, t); err != nil {
			return nil, fmt.Errorf("%.100q: %w", h.Name, err)
		}
	}
}

// entry notes a file of a layer.
func (r *reading) entry(l *layer, h *tar.Header, content io.Reader) error {
	at := path.Join("/", h.Name)
	base := path.Base(at)
	switch {
	case base == opaque:
		l.over[path.Dir(at)] |= empty
		return nil
	case strings.HasPrefix(base, aufs):
		return nil
	case strings.HasPrefix(base, whiteout):
		l.over[path.Join(path.Dir(at), strings.TrimPrefix(base, whiteout))] |= gone
		return nil
	}
	if h.Typeflag == tar.TypeDir {
		l.over[at] |= folder
		return nil
	}
	l.over[at] |= file
	switch h.Typeflag {
	case tar.TypeLink:
		to := path.Join("/", h.Linkname)
		for _, p := range l.programs {
			if p.path == to {
				l.programs = append(l.programs, program{at, p.needs})
				break
			}
		}
	case tar.TypeReg:
		needs, is, err := r.program(content, h.Size)
		if err != nil {
			return err
		}
		if is {
			l.programs = append(l.programs, program{at, needs})
		}
	}
	return nil
}

// program reads what a file needs, if it is a program.
func (r *reading) program(content io.Reader, size int64) (p cpu.Program, is bool, err error) {
	head := make([]byte, len(elfMagic))
	if size < int64(len(head)) {
		return p, false, nil
	}
	if _, err := io.ReadFull(content, head); err != nil || !bytes.Equal(head, elfMagic) {
		return p, false, err
	}
	if size > maxProgram {
		return p, false, fmt.Errorf("%w: a program of %d bytes", errTooLarge, size)
	}
	whole := io.MultiReader(bytes.NewReader(head), content)
	const small = 4 << 20
	if size <= small {
		text, err := io.ReadAll(whole)
		if err != nil {
			return p, false, err
		}
		p, err = cpu.Inspect(bytes.NewReader(text), int64(len(text)))
		return p, p.Kind != cpu.NotELF, err
	}
	f, err := os.CreateTemp(r.dir, "program-*")
	if err != nil {
		return p, false, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	n, err := io.Copy(f, whole)
	if err != nil {
		return p, false, err
	}
	p, err = cpu.Inspect(f, n)
	return p, p.Kind != cpu.NotELF, err
}

// counted bounds what all layers unpack to, and ends with the context.
type counted struct {
	r    *reading
	text io.Reader
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.text.Read(p)
	if c.r.unpacked += int64(n); c.r.unpacked > maxUnpacked {
		return n, errTooLarge
	}
	return n, err
}
