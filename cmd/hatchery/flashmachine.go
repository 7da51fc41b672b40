package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/drive"
	"hatchery/imagebuilder/flash"
)

// An openCard is a disk that is open to be written.
type openCard interface {
	flash.Card
	// Rescan has the system read the partition table anew.
	Rescan() error
	// Close may be called more than once.
	Close() error
}

// A flashMachine is where the cards are.
type flashMachine interface {
	List(ctx context.Context) ([]drive.Drive, error)
	Find(ctx context.Context, path string) (drive.Drive, error)
	// Peek says what a disk holds, where this process may read it.
	Peek(ctx context.Context, d drive.Drive) (flash.Holding, error)
	// Open opens a disk for writing, and OpenThrough does by a command that has
	// the rights for it.
	Open(ctx context.Context, d drive.Drive, o drive.OpenOptions) (openCard, error)
	OpenThrough(ctx context.Context, command []string, d drive.Drive, o drive.OpenOptions) (openCard, error)
}

// thisMachine is the machine that hatchery runs on.
type thisMachine struct{}

func (thisMachine) List(ctx context.Context) ([]drive.Drive, error) { return drive.List(ctx) }

func (thisMachine) Find(ctx context.Context, path string) (drive.Drive, error) {
	return drive.Find(ctx, path)
}

func (thisMachine) Peek(ctx context.Context, d drive.Drive) (flash.Holding, error) {
	file, err := os.Open(d.Path)
	if err != nil {
		return flash.Holding{}, err
	}
	defer file.Close()
	return flash.Inspect(ctx, fileCard{file, d.Size})
}

func (thisMachine) Open(ctx context.Context, d drive.Drive, o drive.OpenOptions) (openCard, error) {
	return opened(drive.Open(ctx, d, o))
}

func (thisMachine) OpenThrough(ctx context.Context, command []string, d drive.Drive, o drive.OpenOptions) (openCard, error) {
	return opened(drive.OpenThrough(ctx, command, d, o))
}

func opened(card *drive.Handle, err error) (openCard, error) {
	if err != nil {
		return nil, err // not a card that is nil, which is no nil openCard
	}
	return card, nil
}

// A fileCard is a file, or a disk, that is only looked at.
type fileCard struct {
	*os.File
	size int64
}

func (f fileCard) Size() int64                        { return f.size }
func (fileCard) BlockSize() int                       { return 512 }
func (fileCard) Discard(int64, int64) error           { return errors.ErrUnsupported }
func (f fileCard) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// escalation is the command that opens cards with root's rights; nil where
// there is none.
func (f *flashing) escalation() []string {
	self, err := os.Executable()
	if err != nil || runtime.GOOS == "windows" || os.Geteuid() == 0 {
		return nil
	}
	if opener := os.Getenv(openerVariable); opener != "" {
		return []string{self, openCardName, "--via", opener}
	}
	sudo, err := exec.LookPath("sudo")
	if err != nil {
		return nil
	}
	if f.ask == nil { // nobody has a password for it, but it may need none
		return []string{sudo, "-n", self, openCardName}
	}
	return []string{sudo, self, openCardName}
}

// privileges says how to get those that were missing.
func (f *flashing) privileges(err error, job *flashJob, d drive.Drive) error {
	var denied *drive.PermissionError
	if !errors.As(err, &denied) {
		return err
	}
	if runtime.GOOS == "windows" {
		return fmt.Errorf("%w: start hatchery from a terminal that was opened with \"Run as administrator\"", err)
	}
	return fmt.Errorf("%w: this takes root's rights: run `%s`", err, f.elevatedCommand(job, d))
}

// elevatedCommand is this command with root's rights, and with everything that
// depends on who runs it and where.
func (f *flashing) elevatedCommand(job *flashJob, d drive.Drive) string {
	self, err := os.Executable()
	if err != nil {
		self = "hatchery"
	}
	name := job.name
	if job.cluster == "" && len(f.targets) == 1 {
		name = f.targets[0]
	}
	words := []string{"sudo", self, "flash", name, "--to", d.Path}
	if job.cluster != "" {
		words = append(words, "-f", absolute(f.file), "-o", absolute(f.out))
	}
	if dir, err := baseimage.Dir(f.images.Cache); err == nil && job.cluster != "" {
		words = append(words, "--cache", dir)
	}
	for _, given := range []struct {
		set  bool
		word string
	}{{f.yes, "--yes"}, {f.delta, "--delta"}, {f.whole, "--full"}, {f.options.NoVerify, "--no-verify"}, {f.grow, "--grow"}, {f.noGrow, "--no-grow"},
		{f.image.NoBlockMap, "--no-bmap"}, {f.images.Offline, "--offline"}, {f.json, "--json"}, {f.quiet, "--quiet"}} {
		if given.set {
			words = append(words, given.word)
		}
	}
	if f.force != "" {
		words = append(words, "--force", f.force)
	}
	if f.image.BlockMap != "" {
		words = append(words, "--bmap", f.image.BlockMap)
	}
	for i, w := range words {
		words[i] = shellWord(w)
	}
	return strings.Join(words, " ")
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
