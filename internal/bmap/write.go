package bmap

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// Write writes the map as a file of format version 2.0. It must have a
// checksum type, since that version has no files without.
func (m *Map) Write(w io.Writer) error {
	data, err := m.encode()
	if err != nil {
		return fmt.Errorf("cannot write a block map: %w", err)
	}
	_, err = w.Write(data)
	return err
}

func (m *Map) encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	sum, err := newHash(m.ChecksumType)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	mapped := m.Mapped()
	fmt.Fprintf(&b, `<?xml version="1.0" ?>
<!-- Which blocks of an image have to be written to a card or disk. The others hold nothing that is in use.
     bmaptool copy reads this file where it lies beside the image. -->
<bmap version="2.0">
    <!-- %[1]d of %[2]d blocks are mapped: %.1[3]f%% -->
    <ImageSize> %[4]d </ImageSize>
    <BlockSize> %[5]d </BlockSize>
    <BlocksCount> %[2]d </BlocksCount>
    <MappedBlocksCount> %[1]d </MappedBlocksCount>
    <ChecksumType> %[6]s </ChecksumType>

    <!-- Of this file, with zeros in place of the checksum. -->
    <BmapFileChecksum> `, mapped, m.Blocks(), 100*float64(mapped)/float64(m.Blocks()), m.ImageSize, m.BlockSize, m.ChecksumType)
	at := b.Len()
	b.WriteString(strings.Repeat("0", 2*sum.Size()))
	b.WriteString(" </BmapFileChecksum>\n\n    <BlockMap>\n")
	for _, r := range m.Ranges {
		b.WriteString("        <Range")
		if r.Checksum != "" {
			fmt.Fprintf(&b, ` chksum="%s"`, r.Checksum)
		}
		if r.First == r.Last {
			fmt.Fprintf(&b, "> %d </Range>\n", r.First)
		} else {
			fmt.Fprintf(&b, "> %d-%d </Range>\n", r.First, r.Last)
		}
	}
	b.WriteString("    </BlockMap>\n</bmap>\n")
	data := b.Bytes()
	sum.Write(data)
	hex.Encode(data[at:], sum.Sum(nil))
	return data, nil
}
