//go:build !node

package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"

	"hatchery/imagebuilder"
)

// embedded are the nodes' programs, as payload/README.md has it.
//
//go:embed all:payload
var embedded embed.FS

// payloadFolder, where it is set when hatchery is linked, has the programs
// instead of what is embedded: tests put small ones there.
var payloadFolder string

// largestProgram bounds what is unpacked, in bytes.
const largestProgram = 256 << 20

// nodePrograms gives the nodes' programs, those that several images get unpacked once.
func nodePrograms() func(name, architecture string) ([]byte, error) {
	var mu sync.Mutex
	unpacked := map[string][]byte{}
	return func(name, architecture string) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		file := name + "-" + architecture + ".zst"
		if content, ok := unpacked[file]; ok {
			return content, nil
		}
		folder, err := fs.Sub(embedded, "payload")
		if err != nil {
			return nil, err
		}
		if payloadFolder != "" {
			folder = os.DirFS(payloadFolder)
		}
		packed, err := fs.ReadFile(folder, file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("this hatchery was built without the nodes' programs (%s): run `make build` in its source folder, and use bin/hatchery", file)
		}
		if err != nil {
			return nil, err
		}
		decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(largestProgram), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer decoder.Close()
		content, err := decoder.DecodeAll(packed, nil)
		if err != nil {
			return nil, fmt.Errorf("cannot unpack %s: %w", file, err)
		}
		// The controller's own is by far the largest, and asked for once.
		if name != imagebuilder.ToolProgram {
			unpacked[file] = content
		}
		return content, nil
	}
}
