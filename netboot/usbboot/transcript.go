package usbboot

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// An Entry is one request of a board and how it was answered.
type Entry struct {
	Stage   Stage
	Command Command
	Name    string   // as the board wrote it; printable only with %q
	Size    int64    // bytes announced; 0 also for a file that is not there
	Sent    int64    // bytes that the board took (ReadFile)
	SHA256  [32]byte // of the bytes that the board took, where it took them all (ReadFile)
	Missing bool     // there is no such file, or none could be opened
	Refused string   // why the name was not even looked up; "" where it was
}

// Whole says whether the entry is a file that the board took to its end.
func (e Entry) Whole() bool {
	return e.Command == ReadFile && !e.Missing && e.Refused == "" && e.Sent == e.Size
}

// String is one line: what was asked, its size, its digest.
func (e Entry) String() string {
	what := "size"
	switch e.Command {
	case ReadFile:
		what = "read"
	case Done:
		return fmt.Sprintf("%v done", e.Stage)
	}
	line := fmt.Sprintf("%v %s %q", e.Stage, what, e.Name)
	switch {
	case e.Refused != "":
		return line + " refused: " + e.Refused
	case e.Missing:
		return line + " missing"
	case e.Command == GetFileSize:
		return fmt.Sprintf("%s %d", line, e.Size)
	case e.Whole():
		return fmt.Sprintf("%s %d sha256:%s", line, e.Size, hex.EncodeToString(e.SHA256[:]))
	}
	return fmt.Sprintf("%s %d of %d", line, e.Sent, e.Size)
}

// transcriptMax bounds what a board that never ends its questions costs.
const transcriptMax = 4096

// A Transcript is what a board asked for, in order: all attachments of one boot,
// where they are appended to each other.
type Transcript []Entry

// Read lists the files that the board took whole, in order.
func (t Transcript) Read() []string {
	var names []string
	for _, e := range t {
		if e.Whole() {
			names = append(names, e.Name)
		}
	}
	return names
}

// Missing lists the names that the board asked for and did not get, each once, in
// the order of the first question.
func (t Transcript) Missing() []string {
	var names []string
	for _, e := range t {
		if (e.Missing || e.Refused != "") && !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

// Bytes counts what the board took.
func (t Transcript) Bytes() int64 {
	var n int64
	for _, e := range t {
		n += e.Sent
	}
	return n
}

// String is the transcript with a line for each entry.
func (t Transcript) String() string {
	var b strings.Builder
	for _, e := range t {
		b.WriteString(e.String())
		b.WriteByte('\n')
	}
	return b.String()
}
