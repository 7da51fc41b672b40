package initramfs

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Files of the initramfs, which nodeinit reads.
const (
	InfoFile    = "/etc/hatchery/initramfs"
	ModulesFile = "/etc/hatchery/modules"
)

// An Info is what an initramfs says of itself, in InfoFile.
type Info struct {
	Kernel string        // the release of the kernel that it is for
	Digest digest.Digest // of what it was made of: Plan.Digest
}

// String is the file: a line "kernel RELEASE" and a line "inputs DIGEST".
func (i Info) String() string { return fmt.Sprintf("kernel %s\ninputs %s\n", i.Kernel, i.Digest) }

// ErrNotOurs says that a file is no initramfs that this package made.
var ErrNotOurs = errors.New("no initramfs of hatchery's")

// maxSkip is how far ReadInfo looks, in bytes of the archive: the file is among
// the first.
const maxSkip = 64 << 10

// ReadInfo reads what an initramfs says of itself. The error is ErrNotOurs, or
// the reader's own.
func ReadInfo(r io.Reader) (Info, error) {
	source := &remembering{r: r}
	i, err := readInfo(source)
	if source.err != nil {
		return Info{}, source.err
	}
	return i, err
}

func readInfo(r io.Reader) (Info, error) {
	z, err := gzip.NewReader(bufio.NewReader(r))
	if err != nil {
		return Info{}, ErrNotOurs
	}
	in := bufio.NewReader(io.LimitReader(z, maxSkip))
	for {
		name, content, err := readEntry(in)
		if err != nil {
			return Info{}, ErrNotOurs
		}
		if "/"+name == InfoFile {
			return parseInfo(string(content))
		}
	}
}

// remembering tells errors of reading from those of what was read.
type remembering struct {
	r   io.Reader
	err error // other than the end
}

func (r *remembering) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

func parseInfo(text string) (Info, error) {
	var i Info
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch key {
		case "kernel":
			i.Kernel = value
		case "inputs":
			i.Digest = digest.Digest(value)
		}
	}
	if !validRelease(i.Kernel) || i.Digest.Validate() != nil {
		return Info{}, ErrNotOurs
	}
	return i, nil
}
