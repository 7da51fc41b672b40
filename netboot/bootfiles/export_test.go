package bootfiles

import (
	"io"
	"io/fs"

	"hatchery/internal/bootpart"
)

// AdaptConfig is what is made of a config.txt, by names.
func AdaptConfig(files map[string]string) (made string, overlays int, err error) {
	c, err := readConfig(bootpart.ModelZeroW, func(name string) ([]byte, error) {
		text, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return []byte(text), nil
	})
	if err != nil {
		return "", 0, err
	}
	c.adapt()
	c.unchecked()
	c.number("gpu_mem")
	return string(c.Bytes()), len(c.overlays()), nil
}

// ParseTree says whether a flattened device tree can be read, and what an
// overlay's name stands for in it.
func ParseTree(b []byte, name string) (file string, ok bool) {
	t := parseTree(b)
	file, _ = t.overlay(name, platform)
	t.takesOverlays()
	return file, t != nil
}

// ReadVolume reads every file of a FAT32 file system: bytes by name, -1 for one
// that is broken.
func ReadVolume(disk io.ReaderAt, size int64) (map[string]int64, error) {
	v, err := openVolume(disk, 0, size)
	if err != nil {
		return nil, err
	}
	all := map[string]int64{}
	for name, f := range v.files {
		all[name] = -1
		if r, err := v.open(name); err == nil && f.size <= size {
			n, err := io.Copy(io.Discard, r)
			if err != nil && n > r.Size() {
				n = r.Size() + 1
			}
			all[name] = n
		}
	}
	return all, nil
}
