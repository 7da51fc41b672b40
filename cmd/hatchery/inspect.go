package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/diskimage"
)

// inspection is one call of `hatchery inspect`.
type inspection struct {
	*settings
	command *cobra.Command
	options imagebuilder.ImageOptions

	long, all, noDiffs, recursive, force bool
	// cpuToo is --cpu, the verb cpu by another name.
	cpuToo bool
	model  string
}

// An inspectVerb is what can be done with an image.
type inspectVerb struct {
	name, args  string
	least, most int // arguments beside the image
	flags       []string
	run         func(i *inspection, image *imagebuilder.OpenedImage, args []string) error
}

func inspectVerbs() []inspectVerb {
	return []inspectVerb{
		{"ls", "[PATH]", 0, 1, []string{"long", "all", "recursive"}, (*inspection).ls},
		{"tree", "[PATH]", 0, 1, []string{"all"}, (*inspection).tree},
		{"cat", "PATH...", 1, 1 << 10, []string{"force"}, (*inspection).cat},
		{"extract", "PATH DEST", 2, 2, []string{"force", "recursive"}, (*inspection).extract},
		{"diff", "[OTHER]", 0, 1, []string{"all", "no-diffs"}, (*inspection).diff},
		{"cpu", "[PATH]", 0, 1, []string{"all", "model", "cpu"}, (*inspection).cpu},
	}
}

func newInspect(s *settings) *cobra.Command {
	i := &inspection{settings: s}
	c := &cobra.Command{
		Use:   "inspect IMAGE [ls|tree|cat|extract|diff|cpu] [ARGUMENT...]",
		Short: "Look into any image, as if it were a folder",
		Long: `inspect opens a disk image without mounting it and without root: one that
hatchery made, a base image, or anybody's. It may be raw or compressed (.xz,
.gz, .zst, .zip: unpacked once, into the cache), a layer of out/layers, or a
card in its reader (/dev/sdX). Nothing in it is changed.

Alone it says what the image is: its partitions and file systems, the release
of the operating system, what will happen at the first boot, what hatchery put
in, and which files hold private keys and passwords.

  ls [PATH]          list a folder (-l long, -R with all below)
  tree [PATH]        the same as a tree
  cat PATH...        print files
  extract PATH DEST  copy a file or folder out, all of it or nothing; where DEST
                     is a folder, into it
  diff [OTHER]       what this image has otherwise than OTHER, or than the base
                     that manifest.json beside it names
  cpu [PATH]         for which processors the programs are, how many of each,
                     and which do not run on --model (default: the one that
                     hatchery built it for, else any that the
                     image is for), those of container images that wait to be
                     loaded too; --cpu is the same

PATH is that of the running system: the boot partition lies where the image
mounts it. N:/PATH names a file of partition N instead. Symbolic links never
lead out of the image. extract keeps modes, times and links, and owners where
it is run as root; it leaves out devices and extended attributes, and replaces
nothing without --force.

The verb may come before the image, too.`,
		Example: `  hatchery inspect out/p1.img
  hatchery inspect out/p1.img ls -l /etc/hatchery
  hatchery inspect 2025-05-13-raspios.img.xz cat /boot/firmware/config.txt
  hatchery inspect out/p1.img extract /etc ./p1-etc
  hatchery inspect out/p1.img diff                 # since its base
  hatchery inspect old.img diff 2025-05-13-raspios.img.xz
  hatchery inspect out/p1.img cpu --model zero
  hatchery inspect /dev/sdb cat 1:/cmdline.txt`,
		RunE: func(c *cobra.Command, args []string) error {
			i.command = c
			return i.run(args)
		},
	}
	flags := c.Flags()
	flags.StringVar(&i.options.Cache, "cache", "", "the cache folder (default: hatchery in the user's cache folder)")
	flags.BoolVar(&i.options.Offline, "offline", false, "fetch nothing: a layer's base must be in the cache, or a file")
	flags.BoolVarP(&i.long, "long", "l", false, "ls: modes, owners, sizes and times too")
	flags.BoolVarP(&i.all, "all", "a", false, "diff, cpu: everything, however long (ls and tree show hidden files anyway)")
	flags.BoolVar(&i.noDiffs, "no-diffs", false, "diff: which files differ, but not what is in them")
	flags.BoolVarP(&i.recursive, "recursive", "R", false, "ls: all that lies below, too")
	flags.BoolVar(&i.force, "force", false, "extract: replace what is there; cat: binary data to a terminal")
	flags.BoolVar(&i.cpuToo, "cpu", false, "the verb cpu")
	flags.StringVar(&i.model, "model", "", "cpu: zero, zero-w, zero-2-w, 2, 3, 4, 5 or auto")
	return c
}

// run takes the command line apart: the image, then a verb, or the other way
// round.
func (i *inspection) run(args []string) error {
	verbs := inspectVerbs()
	verbOf := func(n int) int {
		if n >= len(args) {
			return -1
		}
		return slices.IndexFunc(verbs, func(v inspectVerb) bool { return v.name == args[n] })
	}
	if i.cpuToo && verbOf(0) < 0 && verbOf(1) < 0 && len(args) > 0 {
		args = slices.Insert(slices.Clone(args), 1, "cpu")
	}
	if len(args) == 0 {
		return usageError{errors.New("inspect needs an image, e.g. `hatchery inspect out/p1.img`; see `hatchery inspect --help`")}
	}
	if len(args) == 1 && verbOf(0) < 0 {
		if err := i.checkFlags("", nil); err != nil {
			return err
		}
		return i.with(args[0], i.report)
	}
	name, number, rest := args[0], verbOf(1), args[min(2, len(args)):]
	if first := verbOf(0); first >= 0 {
		if len(args) == 1 {
			return usageError{fmt.Errorf("inspect %s needs an image: `hatchery inspect IMAGE %s %s`", args[0], args[0], verbs[first].args)}
		}
		name, number = args[1], first
	}
	if number < 0 {
		return usageError{fmt.Errorf("inspect does not know %q: it has ls, tree, cat, extract, diff and cpu; see `hatchery inspect --help`", args[1])}
	}
	verb := verbs[number]
	if err := i.checkFlags(verb.name, verb.flags); err != nil {
		return err
	}
	if len(rest) < verb.least || len(rest) > verb.most {
		return usageError{fmt.Errorf("`hatchery inspect %s %s %s` is what it takes; see `hatchery inspect --help`", name, verb.name, verb.args)}
	}
	return i.with(name, func(image *imagebuilder.OpenedImage) error { return verb.run(i, image, rest) })
}

// checkFlags refuses a flag that means nothing to a verb.
func (i *inspection) checkFlags(verb string, known []string) error {
	for _, flag := range []string{"long", "all", "no-diffs", "recursive", "force", "model", "cpu"} {
		if i.command.Flags().Changed(flag) && !slices.Contains(known, flag) {
			if verb == "" {
				return usageError{fmt.Errorf("--%s is for a verb: ls, tree, cat, extract, diff, cpu", flag)}
			}
			return usageError{fmt.Errorf("--%s means nothing to inspect %s", flag, verb)}
		}
	}
	return nil
}

// with opens an image for as long as f takes.
func (i *inspection) with(name string, f func(*imagebuilder.OpenedImage) error) error {
	image, err := i.open(name)
	if err != nil {
		return err
	}
	defer image.Close()
	return f(image)
}

func (i *inspection) open(name string) (*imagebuilder.OpenedImage, error) {
	display := i.display(i.command)
	defer display.Close()
	options := i.options
	options.Progress = display
	return imagebuilder.OpenImage(i.command.Context(), name, options)
}

func (i *inspection) out() io.Writer { return i.command.OutOrStdout() }

var partitionPath = regexp.MustCompile(`^(\d{1,4}):(/.*)?$`)

// at gives the tree that a path is in, and the path in it.
func (i *inspection) at(image *imagebuilder.OpenedImage, name string) (diskimage.Tree, string, error) {
	m := partitionPath.FindStringSubmatch(name)
	if m == nil {
		tree, err := image.Tree()
		if err != nil {
			return nil, "", &imagebuilder.InputError{Err: fmt.Errorf("%s: %w; name one partition's files as N:/PATH", image.Name, err)}
		}
		if !strings.HasPrefix(name, "/") {
			name = "/" + name
		}
		return tree, name, nil
	}
	number, _ := strconv.Atoi(m[1])
	tree, err := image.Partition(number)
	if err != nil {
		return nil, "", &imagebuilder.InputError{Err: fmt.Errorf("%s: %w", image.Name, err)}
	}
	return tree, "/" + strings.TrimPrefix(m[2], "/"), nil
}

// inputError says that what was asked for is not in the image; other errors
// are failures.
func inputError(image *imagebuilder.OpenedImage, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		wrapped := fmt.Errorf("%s in %s: %w", shown(pe.Path), image.Name, pe.Err)
		for _, is := range []error{fs.ErrNotExist, fs.ErrInvalid, diskimage.ErrIsDir, diskimage.ErrNotDir, diskimage.ErrNotRegular, diskimage.ErrLoop} {
			if errors.Is(err, is) {
				return &imagebuilder.InputError{Err: wrapped}
			}
		}
		return wrapped
	}
	return err
}
