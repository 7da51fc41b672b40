package bmap

import (
	"bytes"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A CorruptError says what is wrong in a block map.
type CorruptError struct {
	What string
}

func (e *CorruptError) Error() string { return "corrupt block map: " + e.What }

func corrupt(format string, args ...any) error {
	return &CorruptError{fmt.Sprintf(format, args...)}
}

// maxFile bounds how long a block map may be: that of a 2 TiB card with every
// other megabyte mapped has a million ranges in 130 MB.
const maxFile = 256 << 20

// Parse reads a block map and checks it, its own checksum included. The
// errors are a [*CorruptError], an [*UnsupportedError], or r's own.
func Parse(r io.Reader) (*Map, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the block map: %w", err)
	}
	if len(data) > maxFile {
		return nil, corrupt("it is longer than %d bytes", maxFile)
	}
	f, err := decode(data)
	if err != nil {
		return nil, err
	}
	return f.parse(data)
}

// file is a block map as it is written.
type file struct {
	version string
	texts   map[string]string // of the elements in <bmap>
	ranges  []element
}

type element struct {
	text  string
	attrs []xml.Attr
}

// decode takes the XML apart: nothing but <bmap>, the elements in it, and the
// ranges in its <BlockMap> is looked at.
func decode(data []byte) (*file, error) {
	f := &file{texts: map[string]string{}}
	d := xml.NewDecoder(bytes.NewReader(data))
	var path []string
	var text strings.Builder
	var attrs []xml.Attr
	seen := false
	for {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, corrupt("it is not XML: %v", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			if len(path) == 0 {
				if seen || t.Name.Local != "bmap" {
					return nil, corrupt("the element <%.40s> stands where <bmap> should", t.Name.Local)
				}
				seen = true
				f.version = attribute(t.Attr, "version")
			}
			if len(path) == maxDepth {
				return nil, corrupt("its elements lie too deep in each other")
			}
			path = append(path, t.Name.Local)
			text.Reset()
			attrs = t.Attr
		case xml.CharData:
			text.Write(t)
		case xml.EndElement:
			if len(path) == 0 || path[len(path)-1] != t.Name.Local {
				return nil, corrupt("the end of <%.40s> without its beginning", t.Name.Local)
			}
			switch {
			case len(path) == 2:
				if _, twice := f.texts[t.Name.Local]; twice {
					return nil, corrupt("there are two <%.40s>", t.Name.Local)
				}
				f.texts[t.Name.Local] = strings.TrimSpace(text.String())
			case len(path) == 3 && path[1] == "BlockMap" && path[2] == "Range":
				f.ranges = append(f.ranges, element{strings.TrimSpace(text.String()), attrs})
			}
			path = path[:len(path)-1]
			text.Reset()
			attrs = nil
		}
	}
	switch {
	case len(path) > 0:
		return nil, corrupt("it ends within <%.40s>", path[len(path)-1])
	case !seen:
		return nil, corrupt("it holds no <bmap>")
	}
	return f, nil
}

// maxDepth is how deep elements may lie in each other: three levels are
// known, and more may come in later minor versions.
const maxDepth = 16

func attribute(attrs []xml.Attr, name string) string {
	for _, a := range attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (f *file) parse(data []byte) (*Map, error) {
	major, minor, err := f.parseVersion()
	if err != nil {
		return nil, err
	}
	m := &Map{}
	var blocks, mapped int64
	for _, n := range []struct {
		name string
		to   *int64
	}{{"ImageSize", &m.ImageSize}, {"BlockSize", &m.BlockSize}, {"BlocksCount", &blocks}, {"MappedBlocksCount", &mapped}} {
		text, ok := f.texts[n.name]
		if !ok {
			return nil, corrupt("it has no <%s>", n.name)
		}
		if *n.to, err = number(text); err != nil {
			return nil, corrupt("<%s>: %v", n.name, err)
		}
	}

	attr, own := "", ""
	switch {
	case major == 2 || minor == 4:
		attr, own = "chksum", "BmapFileChecksum"
		if m.ChecksumType = f.texts["ChecksumType"]; m.ChecksumType == "" {
			return nil, corrupt("it has no <ChecksumType>")
		}
	case minor == 3:
		attr, own, m.ChecksumType = "sha1", "BmapFileSHA1", "sha1"
	case minor == 2:
		attr, m.ChecksumType = "sha1", "sha1"
	}
	if own != "" {
		if err := verify(data, m.ChecksumType, f.texts[own]); err != nil {
			return nil, err
		}
	}
	for _, e := range f.ranges {
		first, last, two := strings.Cut(e.text, "-")
		r := Range{}
		if r.First, err = number(strings.TrimSpace(first)); err != nil {
			return nil, corrupt("a range: %v", err)
		}
		r.Last = r.First
		if two {
			if r.Last, err = number(strings.TrimSpace(last)); err != nil {
				return nil, corrupt("a range: %v", err)
			}
		}
		if attr != "" {
			r.Checksum = strings.ToLower(attribute(e.attrs, attr))
		}
		m.Ranges = append(m.Ranges, r)
	}
	if err := m.check(); err != nil {
		var unsupported *UnsupportedError
		if errors.As(err, &unsupported) {
			return nil, err
		}
		return nil, corrupt("%v", err)
	}
	if blocks != m.Blocks() {
		return nil, corrupt("it claims %d blocks, and an image of %d bytes has %d of %d bytes", blocks, m.ImageSize, m.Blocks(), m.BlockSize)
	}
	if mapped != m.Mapped() {
		return nil, corrupt("it claims %d mapped blocks and lists %d", mapped, m.Mapped())
	}
	return m, nil
}

func (f *file) parseVersion() (major, minor int64, err error) {
	a, b, _ := strings.Cut(f.version, ".")
	major, err = number(a)
	if err == nil {
		minor, err = number(b)
	}
	switch {
	case err != nil:
		return 0, 0, corrupt("version %.20q", f.version)
	case major < 1 || major > 2:
		return 0, 0, &UnsupportedError{fmt.Sprintf("version %.20s", f.version)}
	}
	return major, minor, nil
}

// number reads a decimal number: digits alone.
func number(s string) (int64, error) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%.40q is no number", s)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is no number", s)
	}
	return n, nil
}

// verify checks the file's own checksum: its first occurrence is the place
// that was zero when it was computed.
func verify(data []byte, checksumType, want string) error {
	h, err := newHash(checksumType)
	if err != nil {
		return err
	}
	if len(want) != 2*h.Size() {
		return corrupt("its own checksum %.80q is no %s", want, checksumType)
	}
	at := bytes.Index(data, []byte(want))
	if at < 0 {
		return corrupt("its own checksum is not written plainly")
	}
	h.Write(data[:at])
	h.Write(bytes.Repeat([]byte("0"), len(want)))
	h.Write(data[at+len(want):])
	if got := hex.EncodeToString(h.Sum(nil)); got != strings.ToLower(want) {
		return corrupt("its checksum is %s, and it should be %s", got, want)
	}
	return nil
}
