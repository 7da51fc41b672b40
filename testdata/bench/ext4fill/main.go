// Command ext4fill copies a folder into an ext4 image with hatchery's editor.
// It exists for `make bench`, which times it beside debugfs and the kernel.
//
//	ext4fill IMAGE FOLDER DESTINATION
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"hatchery/internal/ext4"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: ext4fill IMAGE FOLDER DESTINATION")
		os.Exit(2)
	}
	if err := fill(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "ext4fill:", err)
		os.Exit(1)
	}
}

func fill(image, folder, destination string) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	root, err := ext4.Open(f, info.Size())
	if err != nil {
		return err
	}
	err = filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(folder, file)
		if err != nil {
			return err
		}
		place := path.Join("/", destination, filepath.ToSlash(relative))
		info, err := entry.Info()
		if err != nil {
			return err
		}
		attr := ext4.Attr{Mode: info.Mode().Perm(), ModTime: time.Unix(1763769600, 0)}
		switch {
		case entry.IsDir():
			return root.MkdirAll(place, attr)
		case info.Mode().IsRegular():
			content, err := os.Open(file)
			if err != nil {
				return err
			}
			defer content.Close()
			return root.Create(place, content, attr)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := root.Flush(); err != nil {
		return err
	}
	return f.Close()
}
