package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hatchery/imagebuilder/drive"
	"hatchery/imagebuilder/flash"
	"hatchery/internal/capacity"
)

// card finds the card for a job, asks, and opens it.
func (f *flashing) card(ctx context.Context, job *flashJob, source *flashSource, before *flashJob) (openCard, drive.Drive, error) {
	var used *drive.Drive
	if before != nil && len(f.done) > 0 {
		used = &f.done[len(f.done)-1].Drive
		if err := f.changed(ctx, job, before, *used); err != nil {
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
		switch err := f.agreed(ctx, job, source, d, before); {
		case errors.Is(err, errAgain):
			continue
		case err != nil:
			return nil, drive.Drive{}, err
		}
		card, err := f.machine.Open(ctx, d, drive.OpenOptions{Force: f.forced(d)}, f.escalation())
		if err != nil {
			return nil, drive.Drive{}, f.privileges(err, job, d)
		}
		if before != nil && f.ask != nil && !f.yes {
			// Without privileges it could not be looked at before.
			holding, err := flash.Inspect(ctx, card)
			if err == nil && f.justWritten(holding, before) {
				answer, err := f.ask.line(ctx, fmt.Sprintf("This card holds %s, which was written just now. Write %s over it? [y/N]", before.label(), job.label()))
				if err != nil || !isYes(answer) {
					card.Close()
					if err != nil {
						return nil, drive.Drive{}, err
					}
					continue
				}
			}
		}
		return card, d, nil
	}
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
		if d.Kind == drive.File {
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
			f.say("Put the card for %s into the reader. (^C ends; `hatchery flash --list` shows which disks are there, and why they are no cards.)", job.label())
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
		f.say("  %d  %s", i+1, describe(d))
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

// changed waits until the card that was written is out of its reader.
func (f *flashing) changed(ctx context.Context, job, before *flashJob, used drive.Drive) error {
	if f.ask == nil {
		return nil
	}
	f.say("Take %s's card out, and put the one for %s in.", before.label(), job.label())
	const patience = 30
	for range patience {
		drives, err := f.machine.List(ctx)
		if err != nil {
			return err
		}
		there, others := false, false
		for _, d := range drives {
			switch {
			case d.Path == used.Path && d.Serial == used.Serial && d.Size == used.Size:
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
	target, err := os.Stat(d.Path)
	if err != nil {
		return err
	}
	for _, name := range source.files {
		if info, err := os.Stat(name); err == nil && os.SameFile(info, target) {
			return usageError{fmt.Errorf("%s is what would be read (%s): name another file", d.Path, name)}
		}
	}
	out, err := filepath.Abs(f.out)
	if err != nil {
		return err
	}
	at, err := filepath.Abs(d.Path)
	if err != nil {
		return err
	}
	if within, err := filepath.Rel(out, at); err == nil && filepath.IsLocal(within) {
		return usageError{fmt.Errorf("%s lies in the output folder of builds: name a file elsewhere", d.Path)}
	}
	return nil
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
func (f *flashing) agreed(ctx context.Context, job *flashJob, source *flashSource, d drive.Drive, before *flashJob) error {
	if f.yes {
		return nil
	}
	f.say("%s, %s, goes onto", job.label(), capacity.Text(source.mapped()))
	f.say("  %s", describe(d))
	for _, m := range d.Mounts {
		f.say("  mounted on %s: will be unmounted", m.Place)
	}
	all := "All that is on it will be gone."
	if holding, err := f.machine.Peek(ctx, d); err == nil {
		f.say("  it holds %s", holding)
		if before != nil && f.justWritten(holding, before) {
			all = fmt.Sprintf("That is %s, written just now!", before.label())
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

// justWritten says whether what a card holds is the card before.
func (f *flashing) justWritten(h flash.Holding, before *flashJob) bool {
	return h.Kind == flash.Hatchery && before.cluster != "" && h.Cluster == before.cluster && h.Target == before.name
}
