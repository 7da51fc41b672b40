package main

import (
	"context"
	"fmt"
	"strings"

	"hatchery/imagebuilder/drive"
	"hatchery/imagebuilder/flash"
	"hatchery/internal/capacity"
)

// A driveView is a disk of the list, as JSON has it.
type driveView struct {
	drive.Drive
	Candidate  bool     `json:"candidate"`
	Objections []string `json:"objections"`
}

// printDrives lists the disks, cards first.
func (f *flashing) printDrives(ctx context.Context) error {
	drives, err := f.machine.List(ctx)
	if err != nil {
		return err
	}
	views := []driveView{}
	for _, candidate := range []bool{true, false} {
		for _, d := range drives {
			if d.Candidate() != candidate {
				continue
			}
			v := driveView{Drive: d, Candidate: candidate, Objections: []string{}}
			for _, o := range weightiest(d.Objections()) {
				v.Objections = append(v.Objections, o.Text)
			}
			views = append(views, v)
		}
	}
	stdout := f.command.OutOrStdout()
	if f.json {
		return printJSON(stdout, views)
	}
	const row = "%-20s  %-28s  %9s  %-7s  %-20s  %s"
	printLine(stdout, row, "DEVICE", "MODEL", "SIZE", "BUS", "SERIAL", "CARD")
	for _, v := range views {
		card := "yes"
		if !v.Candidate {
			card = "no: " + strings.Join(v.Objections, "; ")
		} else if places := mountPlaces(v.Drive); places != "" {
			card = "yes; mounted on " + places + ", would be unmounted"
		}
		printLine(stdout, row, v.Path, dash(v.Model), capacity.Text(v.Size), dash(v.Bus), dash(v.Serial), card)
	}
	if len(views) == 0 {
		printLine(stdout, "This machine shows no disks.")
	}
	return nil
}

// weightiest leaves out what can be overridden where something cannot.
func weightiest(all []drive.Objection) []drive.Objection {
	var final []drive.Objection
	for _, o := range all {
		if o.Final {
			final = append(final, o)
		}
	}
	if final != nil {
		return final
	}
	return all
}

func mountPlaces(d drive.Drive) string {
	var places []string
	for _, m := range d.Mounts {
		places = append(places, m.Place)
	}
	return strings.Join(places, ", ")
}

// describe is a disk in a line.
func describe(d drive.Drive) string {
	words := []string{d.Path}
	if d.Kind == drive.File {
		return d.Path + ", a file of " + capacity.Text(d.Size)
	}
	if d.Model != "" {
		words = append(words, d.Model)
	}
	words = append(words, capacity.Text(d.Size))
	if d.Bus != "" {
		words = append(words, d.Bus)
	}
	if d.Serial != "" {
		words = append(words, "serial "+d.Serial)
	}
	return strings.Join(words, ", ")
}

// printCard says how a card was written.
func (f *flashing) printCard(job *flashJob, card *flashedCard, rest []*flashJob) {
	stdout := f.command.OutOrStdout()
	r := card.Result
	switch {
	case r.Mode == flash.Delta && r.Written == 0:
		printLine(stdout, "%s is on its card already: %s compared, nothing differed. (%.0f s)", job.label(), capacity.Text(r.Mapped), r.Seconds.Total)
	case r.Mode == flash.Delta:
		printLine(stdout, "%s is on its card: %s of %s differed and were written%s. (%.0f s)",
			job.label(), capacity.Text(r.Written), capacity.Text(r.Mapped), f.readBack(r), r.Seconds.Total)
	default:
		printLine(stdout, "%s is on its card: %s written, %s/s%s. (%.0f s)",
			job.label(), capacity.Text(r.Written), capacity.Text(int64(float64(r.Written)/max(r.Seconds.Write, 0.001))), f.readBack(r), r.Seconds.Total)
	}
	for _, w := range r.Warnings {
		f.say("hatchery: warning: %s", w)
	}
	if len(rest) == 0 && card.Drive.Kind == drive.Disk {
		f.say("Take the card out.")
	}
}

func (f *flashing) readBack(r *flash.Result) string {
	if f.options.NoVerify {
		return ", not read back"
	}
	if n := len(r.Rewritten); n > 0 {
		return fmt.Sprintf(", read back (%s)", plural(n, "1 place was written twice, since it read back wrong at first: this card may be on its way out", "%d places were written twice, since they read back wrong at first: this card may be on its way out"))
	}
	return ", read back, all of it right"
}
