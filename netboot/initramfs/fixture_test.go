package initramfs_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// program is an ELF file for ARM, as far as it is looked at, with a text in it.
func program(text string) []byte {
	b := make([]byte, 64, 64+len(text))
	copy(b, "\x7fELF\x01\x01\x01")
	binary.LittleEndian.PutUint16(b[18:], 40)
	return append(b, text...)
}

const release = "6.12.25+rpt-rpi-v6"

// tree is the root of an image with modules, by the lines of modules.dep.
func tree(dependencies string, files map[string]string) fstest.MapFS {
	t := fstest.MapFS{}
	const dir = "usr/lib/modules/" + release + "/"
	t[dir+"modules.dep"] = &fstest.MapFile{Data: []byte(dependencies)}
	for line := range strings.Lines(dependencies) {
		if file, _, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
			t[dir+file] = &fstest.MapFile{Data: packed(file, program("module "+file))}
		}
	}
	for name, content := range files {
		if content == "" {
			delete(t, dir+name)
		} else {
			t[dir+name] = &fstest.MapFile{Data: []byte(content)}
		}
	}
	return t
}

// packed compresses a module as its name says.
func packed(name string, content []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch {
	case strings.HasSuffix(name, ".gz"):
		w = gzip.NewWriter(&b)
	case strings.HasSuffix(name, ".xz"):
		w, err = xz.WriterConfig{CheckSum: xz.CRC32}.NewWriter(&b)
	case strings.HasSuffix(name, ".zst"):
		w, err = zstd.NewWriter(&b)
	default:
		return content
	}
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// unpacked reads an archive by cpio(5)'s own words: the files' contents by
// name, and a line for each entry in its order.
func unpacked(t testing.TB, made []byte) (content map[string]string, list string) {
	t.Helper()
	b := gunzip(t, made)
	content = map[string]string{}
	var lines strings.Builder
	for at := 0; ; {
		var field [13]int
		if string(b[at:at+6]) != "070701" {
			t.Fatalf("no header at byte %d", at)
		}
		for i := range field {
			if _, err := fmt.Sscanf(string(b[at+6+8*i:][:8]), "%x", &field[i]); err != nil {
				t.Fatal(err)
			}
		}
		mode, uid, gid, mtime, size, length := field[1], field[2], field[3], field[5], field[6], field[11]
		name := strings.TrimSuffix(string(b[at+110:][:length]), "\x00")
		at = (at + 110 + length + 3) / 4 * 4
		if name == "TRAILER!!!" {
			if at != len(b) {
				t.Errorf("%d bytes behind the end", len(b)-at)
			}
			return content, lines.String()
		}
		fmt.Fprintf(&lines, "%06o %d:%d %d %d:%d %s\n", mode, uid, gid, mtime, field[9], field[10], name)
		if mode&0o170000 == 0o100000 {
			content[name] = string(b[at : at+size])
		}
		at = (at + size + 3) / 4 * 4
	}
}

func names(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
