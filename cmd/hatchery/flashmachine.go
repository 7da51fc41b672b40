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
	// Open opens a disk for writing: through the command, which runs it with
	// more privileges, where this process has too few and there is one.
	Open(ctx context.Context, d drive.Drive, o drive.OpenOptions, through []string) (openCard, error)
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

func (thisMachine) Open(ctx context.Context, d drive.Drive, o drive.OpenOptions, through []string) (openCard, error) {
	card, err := drive.Open(ctx, d, o)
	var denied *drive.PermissionError
	if errors.As(err, &denied) && len(through) > 0 {
		if name := filepath.Base(through[0]); name == "sudo" {
			fmt.Fprintf(os.Stderr, "Opening %s takes root's rights: `%s` does it.\n", d.Path, strings.Join(through, " "))
		}
		card, err = drive.OpenThrough(ctx, through, d, o)
	}
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

// escalation is the command that opens cards with root's rights: sudo, where
// there is a terminal to ask for the password at.
func (f *flashing) escalation() []string {
	self, err := os.Executable()
	if err != nil || runtime.GOOS == "windows" || os.Geteuid() == 0 {
		return nil
	}
	if opener := os.Getenv(openerVariable); opener != "" {
		return []string{self, openCardName, "--via", opener}
	}
	sudo, err := exec.LookPath("sudo")
	if err != nil || f.ask == nil {
		return nil
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
	}{{f.yes, "--yes"}, {f.delta, "--delta"}, {f.whole, "--full"}, {f.options.NoVerify, "--no-verify"}, {f.grow, "--grow"}, {f.noGrow, "--no-grow"}} {
		if given.set {
			words = append(words, given.word)
		}
	}
	if f.force != "" {
		words = append(words, "--force", f.force)
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
