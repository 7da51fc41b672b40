package debtest

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"hatchery/internal/testtool"
)

// A Member is one of a .deb's own files.
type Member struct {
	Name    string // up to 16 bytes
	Content []byte
}

// Archive puts members into an ar archive: a .deb, if they are the right
// ones.
func Archive(members ...Member) []byte {
	b := bytes.NewBufferString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.Name, ModTime.Unix(), 0, 0, 0o100644, len(m.Content))
		b.Write(m.Content)
		if len(m.Content)%2 != 0 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func suffix(compression string) string {
	if compression == "none" {
		return ""
	}
	return "." + compression
}

// Compress packs data as one of the kinds that Compression names.
func Compress(t testing.TB, kind string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case "none":
		return data
	case "gz":
		w = gzip.NewWriter(&b)
	case "xz":
		// A small dictionary: the encoder's tables grow with it.
		w, err = xz.WriterConfig{DictCap: 1 << 20, CheckSum: xz.CRC64}.NewWriter(&b)
	case "zst":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	case "lzma":
		w, err = lzma.WriterConfig{DictCap: 1 << 20}.NewWriter(&b)
	case "bz2":
		tool := exec.Command(testtool.Need(t, "bzip2"), "-c")
		tool.Stdin = bytes.NewReader(data)
		packed, err := tool.Output()
		if err != nil {
			t.Fatalf("debtest: bzip2: %v", err)
		}
		return packed
	default:
		t.Fatalf("debtest: there is no compression %q", kind)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatalf("debtest: %s: %v", kind, err)
	}
	return b.Bytes()
}
