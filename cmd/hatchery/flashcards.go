package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/drive"
	"hatchery/imagebuilder/flash"
	"hatchery/internal/capacity"
)

// card finds the card for a job, asks, and opens it.
func (f *flashing) card(ctx context.Context, job *flashJob, source *flashSource) (openCard, drive.Drive, error) {
	if len(f.done) > 0 {
		if err := f.changed(ctx, job); err != nil {
			return nil, drive.Drive{}, err
		}
	}
	for {
		d, err := f.choose(ctx, job, source)
		if err != nil {
			return nil, drive.Drive{}, err
		}
		if err := f.suits(d, source); err != nil {
			return nil, drive.Drive{}, err
		}
		switch err := f.agreed(ctx, job, source, d); {
		case errors.Is(err, errAgain):
			continue
		case err != nil:
			return nil, drive.Drive{}, err
		}
		card, err := f.open(ctx, job, d)
		if err != nil {
			return nil, drive.Drive{}, err
		}
		switch agreed, err := f.agreedAgain(ctx, job, card); {
		case err != nil:
			card.Close()
			return nil, drive.Drive{}, err
		case agreed:
			return card, d, nil
		}
		card.Close()
	}
}

// open opens a card, with more rights where it takes them.
func (f *flashing) open(ctx context.Context, job *flashJob, d drive.Drive) (openCard, error) {
	o := drive.OpenOptions{Force: f.forced(d)}
	card, err := f.machine.Open(ctx, d, o)
	var denied *drive.PermissionError
	if !errors.As(err, &denied) {
		return card, err
	}
	if d.Kind == drive.File {
		return nil, fmt.Errorf("%w: it is a file: take one that is yours", err)
	}
	through := f.escalation()
	if len(through) == 0 {
		return nil, f.privileges(err, job, d)
	}
	if filepath.Base(through[0]) == "sudo" {
		f.say("Opening %s takes root's rights: `%s` does it.", d.Path, strings.Join(through, " "))
	}
	card, openErr := f.machine.OpenThrough(ctx, through, d, o)
	if openErr != nil && f.ask == nil && ctx.Err() == nil {
		return nil, f.privileges(fmt.Errorf("%w (%w)", err, openErr), job, d)
	}
	return card, openErr
}

// agreedAgain asks about a card that was written in this walk: without
// privileges it could not be looked at before.
func (f *flashing) agreedAgain(ctx context.Context, job *flashJob, card openCard) (bool, error) {
	if len(f.written) == 0 || f.yes {
		return true, nil
	}
	holding, err := flash.Inspect(ctx, card)
	if err != nil {
		return true, nil // the writing finds out what is wrong
	}
	was := f.justWritten(holding)
	if was == nil {
		return true, nil
	}
	answer, err := f.ask.line(ctx, fmt.Sprintf("This card holds %s, which was written just now. Write %s over it? [y/N]", was.label(), job.label()))
	return isYes(answer), err
}

// errAgain says that another card is to be looked for.
var errAgain = errors.New("look again")

// choose gives the disk to write to: the one that was named, the only card
// there is, or the one that is chosen of several.
func (f *flashing) choose(ctx context.Context, job *flashJob, source *flashSource) (drive.Drive, error) {
	if f.to != "" {
		d, err := f.machine.Find(ctx, f.to)
		if err != nil {
			return d, err
		}
		if d.Kind != drive.Disk {
			if err := f.isNoSource(d, source); err != nil {
				return d, err
			}
		}
		return d, f.refused(d)
	}
	waiting := false
	for {
		drives, err := f.machine.List(ctx)
		if err != nil {
			return drive.Drive{}, err
		}
		var candidates []drive.Drive
		for _, d := range drives {
			if d.Candidate() {
				candidates = append(candidates, d)
			}
		}
		switch {
		case len(candidates) == 1:
			return candidates[0], nil
		case len(candidates) > 1:
			return f.pick(ctx, job, candidates)
		case !waiting:
			waiting = true
			f.ask.tell("Put the card for %s into the reader. (^C ends; `hatchery flash --list` shows which disks are there, and why they are no cards.)", job.label())
		}
		if err := sleep(ctx, f.interval); err != nil {
			return drive.Drive{}, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pick asks which of several cards it is.
func (f *flashing) pick(ctx context.Context, job *flashJob, candidates []drive.Drive) (drive.Drive, error) {
	for i, d := range candidates {
		f.ask.tell("  %d  %s", i+1, describe(d))
	}
	for {
		answer, err := f.ask.line(ctx, fmt.Sprintf("Which one is for %s? [1-%d, q]", job.label(), len(candidates)))
		if err != nil {
			return drive.Drive{}, err
		}
		if n, err := strconv.Atoi(answer); err == nil && n >= 1 && n <= len(candidates) {
			return candidates[n-1], nil
		}
		if strings.HasPrefix(answer, "q") {
			return drive.Drive{}, errQuit
		}
	}
}

// errQuit says that the user has had enough.
var errQuit = errors.New("stopped, as you wished")

// changed waits until the card that was written last is out of its reader.
func (f *flashing) changed(ctx context.Context, job *flashJob) error {
	if f.ask == nil {
		return nil
	}
	used := f.done[len(f.done)-1].Drive
	f.ask.tell("Take %s's card out, and put the one for %s in.", f.written[len(f.written)-1].label(), job.label())
	const patience = 30
	for range patience {
		drives, err := f.machine.List(ctx)
		if err != nil {
			return err
		}
		there, others := false, false
		for _, d := range drives {
			switch {
			case d.Path == used.Path && d.Serial == used.Serial && d.Size == used.Size && d.Sequence == used.Sequence:
				there = true
			case d.Candidate():
				others = true
			}
		}
		if !there || others && f.to == "" {
			// The desktop may be about to mount what was put in just now.
			return sleep(ctx, f.interval)
		}
		if err := sleep(ctx, f.interval); err != nil {
			return err
		}
	}
	// Some readers do not tell.
	answer, err := f.ask.line(ctx, fmt.Sprintf("Is the card for %s in %s now? [y/N]", job.label(), used.Path))
	if err != nil {
		return err
	}
	if !isYes(answer) {
		return errQuit
	}
	return nil
}

// forced says whether the user has named this disk by its serial number.
func (f *flashing) forced(d drive.Drive) bool { return f.force != "" && f.force == d.Serial }

// refused says what speaks against writing to a disk that was named.
func (f *flashing) refused(d drive.Drive) error {
	objections := weightiest(d.Objections())
	var texts []string
	final := false
	for _, o := range objections {
		texts = append(texts, o.Text)
		final = final || o.Final
	}
	why := strings.Join(texts, "; ")
	switch {
	case len(objections) == 0, !final && f.forced(d):
		return nil
	case !final && f.force != "":
		return usageError{fmt.Errorf("%s is not written to: %s; --force names the serial number %q, and its is %q", d.Path, why, f.force, d.Serial)}
	case !final && d.Serial != "":
		return usageError{fmt.Errorf("%s is not written to: %s; if you are sure, add --force %s", d.Path, why, shellWord(d.Serial))}
	}
	return usageError{fmt.Errorf("%s is not written to: %s", d.Path, why)}
}

// suits refuses a card that is too small, before anybody is asked.
func (f *flashing) suits(d drive.Drive, source *flashSource) error {
	if _, end := lastMapped(source); d.Size < end && d.Size > 0 {
		return usageError{fmt.Errorf("%s has %s, and the image needs %s: take a larger card", d.Path, capacity.Text(d.Size), capacity.Text(end))}
	}
	return nil
}

// isNoSource refuses files that are part of what was built.
func (f *flashing) isNoSource(d drive.Drive, source *flashSource) error {
	path := d.Path
	if d.Kind == drive.Loop {
		path = d.Backing
	}
	target, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && d.Kind == drive.Loop {
		return nil // a file that is deleted, or another mount namespace's
	}
	if err != nil {
		return err
	}
	for _, name := range source.files {
		if info, err := os.Stat(name); err == nil && os.SameFile(info, target) {
			return usageError{fmt.Errorf("%s is what would be read (%s): name another file", path, name)}
		}
	}
	cache, err := baseimage.Dir(f.images.Cache)
	if err != nil {
		return err
	}
	for dir, what := range map[string]string{f.out: "output folder of builds", cache: "cache"} {
		if within, err := lies(path, dir); err != nil {
			return err
		} else if within {
			return usageError{fmt.Errorf("%s lies in the %s: name a file elsewhere", path, what)}
		}
	}
	return nil
}

// lies says whether a file lies in a folder, wherever links lead.
func lies(file, dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return false, err
	}
	if file, err = filepath.EvalSymlinks(file); err != nil {
		return false, err
	}
	if file, err = filepath.Abs(file); err != nil {
		return false, err
	}
	within, err := filepath.Rel(dir, file)
	return err == nil && filepath.IsLocal(within), nil
}

func lastMapped(source *flashSource) (start, end int64) {
	m := source.Map()
	if len(m.Ranges) == 0 {
		return 0, 0
	}
	off, n := m.Bytes(m.Ranges[len(m.Ranges)-1])
	return off, off + n
}

// agreed asks the one question.
func (f *flashing) agreed(ctx context.Context, job *flashJob, source *flashSource, d drive.Drive) error {
	if f.yes {
		return nil
	}
	f.ask.tell("%s, %s, goes onto", job.label(), capacity.Text(source.mapped()))
	f.ask.tell("  %s", describe(d))
	for _, m := range d.Mounts {
		f.ask.tell("  mounted on %s: will be unmounted", m.Place)
	}
	all := "All that is on it will be gone."
	if holding, err := f.machine.Peek(ctx, d); err == nil {
		if holding.Kind == flash.Unfinished {
			f.ask.tell("  %s", holding)
		} else {
			f.ask.tell("  it holds %s", holding)
		}
		if was := f.justWritten(holding); was != nil {
			all = fmt.Sprintf("That is %s, written just now!", was.label())
		}
		if holding.Kind == flash.Empty {
			all = ""
		}
	}
	for {
		answer, err := f.ask.line(ctx, strings.TrimSpace(all+" Write? [y = yes, s = skip, l = look again, N = stop]"))
		if err != nil {
			return err
		}
		switch {
		case isYes(answer):
			return nil
		case answer == "s" || answer == "skip":
			return errSkipped
		case answer == "l" || answer == "look":
			return errAgain
		case answer == "" || answer == "n" || answer == "no" || answer == "q":
			return errQuit
		}
	}
}

func isYes(answer string) bool { return answer == "y" || answer == "yes" }

// justWritten gives what was written in this walk, where a card holds it.
func (f *flashing) justWritten(h flash.Holding) *flashJob {
	for _, job := range f.written {
		if h.Kind == flash.Hatchery && job.cluster != "" && h.Cluster == job.cluster && h.Target == job.name {
			return job
		}
	}
	return nil
}
