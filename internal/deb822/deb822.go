// Package deb822 reads Debian's control files: dpkg's status file, the indexes
// of a package archive (Packages, Release), deb822-style APT sources. All of
// them are paragraphs of fields (Debian Policy, chapter 5; deb822(5)).
//
// Files are read paragraph by paragraph, so that one of any size takes little
// memory, and every error names its line. What comes from an image or from the
// network is foreign: lines and paragraphs beyond what any real file has are
// errors.
package deb822

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// maxParagraph bounds what one paragraph takes. The longest real ones are
	// Release files, which list the digests of a whole archive: one or two MB.
	maxParagraph = 16 << 20
	// maxFields is far beyond the some thirty fields of a real paragraph.
	maxFields = 1000
)

// A SyntaxError says where a file is not a control file.
type SyntaxError struct {
	Line int // counted from 1
	Msg  string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Msg) }

// A Field is one "Name: value" of a paragraph.
type Field struct {
	Name string // as it is written
	// Value is without the space around it. A value of several lines has them
	// joined by newlines, each without its first space or tab; an empty line
	// in it is written " .", and so is "." here.
	Value string
	Line  int // of the name
}

// A Paragraph is what stands between two empty lines: a package, a source.
type Paragraph struct {
	Fields []Field // in the file's order
	Line   int     // of the first field
}

// Get gives a field's value, "" where there is none. Names are compared
// without regard to case.
func (p *Paragraph) Get(name string) string {
	value, _ := p.Lookup(name)
	return value
}

// Lookup gives a field's value and whether the field is there.
func (p *Paragraph) Lookup(name string) (value string, ok bool) {
	for i := range p.Fields {
		if strings.EqualFold(p.Fields[i].Name, name) {
			return p.Fields[i].Value, true
		}
	}
	return "", false
}

// A Reader reads paragraphs one by one.
type Reader struct {
	in   *bufio.Reader
	line int // of what was read last
	err  error
}

// NewReader reads from r, which it buffers.
func NewReader(r io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, 64<<10)}
}

// Next gives the next paragraph; io.EOF after the last one. Any other error is
// a [*SyntaxError] or r's own, and is given again from then on.
func (r *Reader) Next() (*Paragraph, error) {
	if r.err != nil {
		return nil, r.err
	}
	p, err := r.next()
	if err != nil {
		r.err = err
		return nil, err
	}
	return p, nil
}

func (r *Reader) next() (*Paragraph, error) {
	p := &Paragraph{}
	size := 0
	var value strings.Builder // of the field under way
	finish := func() {
		if n := len(p.Fields); n > 0 {
			p.Fields[n-1].Value = value.String()
			value.Reset()
		}
	}
	for {
		line, err := r.readLine(maxParagraph - size)
		if errors.Is(err, io.EOF) {
			if len(p.Fields) == 0 {
				return nil, io.EOF
			}
			finish()
			return p, nil
		}
		if err != nil {
			return nil, err
		}
		size += len(line) + 1
		switch {
		case strings.Trim(line, " \t\r") == "":
			if len(p.Fields) > 0 {
				finish()
				return p, nil
			}
		case line[0] == '#': // a comment, wherever it stands
		case line[0] == ' ' || line[0] == '\t':
			if len(p.Fields) == 0 {
				return nil, r.wrong("a line that continues a field, and there is none")
			}
			value.WriteByte('\n')
			value.WriteString(strings.TrimRight(line[1:], " \t\r"))
		default:
			finish()
			name, text, ok := strings.Cut(line, ":")
			if !ok || !validName(name) {
				return nil, r.wrong("%s is no field", quoteStart(line))
			}
			if _, twice := p.Lookup(name); twice {
				return nil, r.wrong("the field %s stands twice in its paragraph", name)
			}
			if len(p.Fields) == maxFields {
				return nil, r.wrong("more than %d fields in one paragraph", maxFields)
			}
			if len(p.Fields) == 0 {
				p.Line = r.line
			}
			p.Fields = append(p.Fields, Field{Name: name, Line: r.line})
			value.WriteString(strings.Trim(text, " \t\r"))
		}
	}
}

// readLine gives the next line without its newline, if it has at most that
// many bytes.
func (r *Reader) readLine(most int) (string, error) {
	var long []byte
	for {
		part, err := r.in.ReadSlice('\n')
		if len(long)+len(part) > most {
			r.line++
			return "", r.wrong("a paragraph of more than %d MiB", maxParagraph>>20)
		}
		switch {
		case err == nil && long == nil:
			r.line++
			return string(part[:len(part)-1]), nil
		case err == nil:
			r.line++
			long = append(long, part[:len(part)-1]...)
			return string(long), nil
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, part...)
		case errors.Is(err, io.EOF) && len(long)+len(part) > 0:
			r.line++
			return string(append(long, part...)), nil
		default:
			return "", err
		}
	}
}

func (r *Reader) wrong(format string, args ...any) error {
	return &SyntaxError{Line: r.line, Msg: fmt.Sprintf(format, args...)}
}

// validName says whether a field may be called so: printable ASCII without
// space or colon, and not beginning with # or -.
func validName(name string) bool {
	if name == "" || name[0] == '-' || name[0] == '#' {
		return false
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return false
		}
	}
	return true
}

// quoteStart quotes a line for a message, as much of it as helps.
func quoteStart(line string) string {
	const most = 40
	if len(line) > most {
		return fmt.Sprintf("%q…", line[:most])
	}
	return fmt.Sprintf("%q", line)
}
