package difference

import (
	"context"
	"errors"
	"slices"
	"strings"

	"hatchery/imagebuilder/diskimage"
)

// Compare says what two images differ in. Both are in use until it returns.
//
// Files are compared as a running system would see them, the boot partition at
// its place in the root. Partitions that are no part of that are compared each
// for itself, as are all of them where an image has no root.
//
// An error is the reader's, the context's, or that of an image so damaged that
// its files cannot be listed; what merely could not be compared is told by
// [Difference].Problems.
func Compare(ctx context.Context, was, is *diskimage.Image, o Options) (*Difference, error) {
	if o.ReadLimit == 0 {
		o.ReadLimit = 4*max(was.Size(), is.Size()) + 1<<30
	}
	images := [2]*diskimage.Image{was, is}
	var roots [2]diskimage.Tree
	for i, im := range images {
		tree, err := im.Tree()
		if err != nil && !errors.Is(err, diskimage.ErrNoRoot) {
			return nil, err
		}
		if err == nil {
			roots[i] = tree
		}
	}
	d := &Difference{Format: Format, Files: []File{}}
	covered := map[int]bool{}
	switch {
	case was == is: // and there is but one object to read from
		for _, p := range was.Partitions() {
			covered[p.Number] = true
		}
	case roots[0] != nil && roots[1] != nil:
		var err error
		d, covered, err = compareTrees(ctx, roots[0], roots[1], o.withDefaults(), [2]string{was.BootPath(), is.BootPath()})
		if err != nil {
			return nil, err
		}
	}
	d.Image = compareImages(was, is)
	d.Image.Was.Name, d.Image.Is.Name = o.WasName, o.IsName
	d.Totals.Growth = is.Size() - was.Size()
	for i, im := range images {
		if problem := im.Table().Problem; problem != "" {
			d.problem(o, i, problem)
		}
	}
	for _, p := range was.Partitions() {
		if err := comparePartitionFiles(ctx, d, images, p, covered, o); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// problem notes one of an image as a whole.
func (d *Difference) problem(o Options, i int, text string) {
	name := []string{o.WasName, o.IsName}[i]
	if name == "" {
		name = []string{"the first image", "the second image"}[i]
	}
	d.Problems = append(d.Problems, Text(name+": "+text))
}

// comparePartitionFiles compares a partition that is no part of the root's
// tree, if both images have it and its files can be read.
func comparePartitionFiles(ctx context.Context, d *Difference, images [2]*diskimage.Image, p diskimage.Partition, covered map[int]bool, o Options) error {
	if covered[p.Number] {
		return nil
	}
	var trees [2]diskimage.Tree
	for i, im := range images {
		tree, err := im.Partition(p.Number)
		if errors.Is(err, diskimage.ErrNoPartition) {
			return nil // told as a partition that came or went
		}
		if err != nil {
			if p.FileSystem != "" && p.FileSystem != "swap" {
				d.problem(o, i, err.Error())
			}
			return nil
		}
		trees[i] = tree
	}
	o.Reason, o.Same = nil, nil // they know the paths of the root's tree
	more, _, err := compareTrees(ctx, trees[0], trees[1], o.withDefaults(), [2]string{"", ""})
	if err != nil {
		return err
	}
	for i := range more.Files {
		more.Files[i].Partition = p.Number
	}
	for i := range more.Touched {
		more.Touched[i].Partition = p.Number
	}
	d.Files = append(d.Files, more.Files...)
	d.Touched = append(d.Touched, more.Touched...)
	d.Problems = append(d.Problems, more.Problems...)
	d.Unlisted += more.Unlisted
	d.Totals.add(more.Totals)
	if d.Cmdline == nil {
		d.Cmdline = more.Cmdline
	}
	if d.Config == nil {
		d.Config = more.Config
	}
	return nil
}

func (t *Totals) add(o Totals) {
	for _, pair := range [][2]*Tally{{&t.Added, &o.Added}, {&t.Removed, &o.Removed}, {&t.Changed, &o.Changed}, {&t.Renamed, &o.Renamed}} {
		pair[0].Files += pair[1].Files
		pair[0].Folders += pair[1].Folders
		pair[0].Other += pair[1].Other
		pair[0].Bytes += pair[1].Bytes
	}
	t.Touched += o.Touched
}

// compareImages compares what lies below the files.
func compareImages(was, is *diskimage.Image) Image {
	d := Image{Was: side(was), Is: side(is)}
	d.Size = change(was.Size(), is.Size())
	before, after := was.Table(), is.Table()
	d.Table = change(before.Kind, after.Kind)
	d.DiskID = change(before.DiskID, after.DiskID)
	byNumber := func(list []diskimage.Partition, number int) *diskimage.Partition {
		for i := range list {
			if list[i].Number == number {
				return &list[i]
			}
		}
		return nil
	}
	var numbers []int
	for _, p := range append(was.Partitions(), is.Partitions()...) {
		if !slices.Contains(numbers, p.Number) {
			numbers = append(numbers, p.Number)
		}
	}
	slices.Sort(numbers)
	for _, number := range numbers {
		a, b := byNumber(was.Partitions(), number), byNumber(is.Partitions(), number)
		if p, different := comparePartitions(a, b); different {
			d.Partitions = append(d.Partitions, p)
		}
	}
	return d
}

func side(im *diskimage.Image) Side {
	return Side{Size: im.Size(), Release: Text(im.Release().Name)}
}

func change[T comparable](was, is T) *Change[T] {
	if was == is {
		return nil
	}
	return &Change[T]{was, is}
}

// comparePartitions compares what two images say of one partition; either may
// not have it.
func comparePartitions(was, is *diskimage.Partition) (Partition, bool) {
	state := func(p *diskimage.Partition) *PartitionState {
		return &PartitionState{Start: p.Start, Size: p.Size, Type: Text(p.Type)}
	}
	known := is
	if known == nil {
		known = was
	}
	d := Partition{Number: known.Number, Change: Changed, FileSystem: Text(known.FileSystem), Label: Text(known.FSLabel)}
	switch {
	case was == nil:
		d.Change, d.Is = Added, state(is)
		return d, true
	case is == nil:
		d.Change, d.Was = Removed, state(was)
		return d, true
	}
	number := func(what string, was, is int64) {
		if was != is {
			d.Values = append(d.Values, PartitionChange{What: what, Was: was, Is: is})
		}
	}
	text := func(what, was, is string) {
		if was != is {
			d.Values = append(d.Values, PartitionChange{What: what, Was: Text(was), Is: Text(is)})
		}
	}
	number("start", was.Start, is.Start)
	number("size", was.Size, is.Size)
	text("type", was.Type, is.Type)
	text("partition_label", was.Label, is.Label)
	text("partition_uuid", was.UUID, is.UUID)
	if was.Bootable != is.Bootable {
		d.Values = append(d.Values, PartitionChange{What: "bootable", Was: was.Bootable, Is: is.Bootable})
	}
	text("file_system", was.FileSystem, is.FileSystem)
	text("label", was.FSLabel, is.FSLabel)
	text("uuid", was.FSUUID, is.FSUUID)
	if !slices.Equal(was.Features, is.Features) {
		d.Values = append(d.Values, PartitionChange{
			What: "features", Was: Text(strings.Join(was.Features, " ")), Is: Text(strings.Join(is.Features, " ")),
			Added: texts(subtract(is.Features, was.Features)), Removed: texts(subtract(was.Features, is.Features)),
		})
	}
	number("file_system_size", was.Used+was.Free, is.Used+is.Free)
	number("used", was.Used, is.Used)
	return d, len(d.Values) > 0
}
