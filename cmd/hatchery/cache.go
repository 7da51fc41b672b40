package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/internal/spec"
)

func newCache(s *settings) *cobra.Command {
	var (
		dir  string
		long bool
	)
	c := &cobra.Command{
		Use:   "cache",
		Short: "Show, verify and clear what was fetched and unpacked",
		Long: `cache shows what lies in hatchery's cache: base images, unpacked and ready for
builds; Docker layers, which targets of one base share; the packages, the lists of
packages and the parts of container images that layers were made of; what registries
said of images that services run; and what has come of downloads so far. Everything in it can be fetched or made again; nothing in
it belongs to one cluster.`,
		Example: `  hatchery cache                   # what is there, and how large is it?
  hatchery cache --long            # each package by itself
  hatchery cache verify            # is it still what it was?
  hatchery cache prune --dry-run   # what was not used for 30 days?
  hatchery cache add raspios.img.xz  # brought here without a network`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return listCache(c, s, dir, long) },
	}
	c.SuggestionsMinimumDistance = 2
	c.PersistentFlags().StringVar(&dir, "cache", "", "the cache folder (default: hatchery in the user's cache folder)")
	c.Flags().BoolVarP(&long, "long", "l", false, "list every package, index and part of a container image by itself")
	c.AddCommand(newCacheAdd(s, &dir), newCacheDir(s, &dir), newCacheVerify(s, &dir), newCachePrune(s, &dir))
	return c
}

func listCache(c *cobra.Command, s *settings, dir string, long bool) error {
	cache, err := baseimage.OpenCache(dir)
	if err != nil {
		return err
	}
	entries, err := cache.List()
	if err != nil {
		return err
	}
	var onDisk int64
	for _, e := range entries {
		onDisk += e.OnDisk
	}
	if s.json {
		return printJSON(c.OutOrStdout(), struct {
			Dir     string            `json:"dir"`
			OnDisk  int64             `json:"on_disk"`
			Entries []baseimage.Entry `json:"entries"`
		}{cache.Dir(), onDisk, append([]baseimage.Entry{}, entries...)})
	}
	if len(entries) == 0 {
		fmt.Fprintf(c.OutOrStdout(), "Nothing is in %s.\n", cache.Dir())
		return nil
	}
	now := time.Now()
	t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KIND\tSIZE\tON DISK\tLAST USED\tSHA256\tFROM")
	for _, g := range grouped(entries, func(e baseimage.Entry) baseimage.Entry { return e }, func(e baseimage.Entry) string {
		if long {
			return e.Path
		}
		return ""
	}) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", g.Kind, entrySize(g.Entry), wholeMiB(g.OnDisk), lastUsed(g.Entry, now), g.id(), entryNames(g.Entry))
	}
	t.Flush()
	fmt.Fprintf(c.OutOrStdout(), "%s in %s\n", wholeMiB(onDisk), cache.Dir())
	return nil
}

// A group is entries of the cache that people see as one: packages, say, of
// which there are dozens.
type group[T any] struct {
	baseimage.Entry // sums, the last use, and the sources of all
	first           T
	count           int
}

// id tells a group from others: its digest, or how many are in it.
func (g group[T]) id() string {
	if g.count > 1 {
		return fmt.Sprintf("%d files", g.count)
	}
	return g.Digest.Encoded()[:12]
}

// small are the kinds of which there are many.
var small = []string{baseimage.KindPackage, baseimage.KindIndex, baseimage.KindContainer, baseimage.KindPlatforms}

// grouped puts the entries of small kinds together that are alike in what
// alike says; the others stay by themselves.
func grouped[T any](all []T, entry func(T) baseimage.Entry, alike func(T) string) []group[T] {
	var groups []group[T]
	at := map[[2]string]int{}
	for _, x := range all {
		e := entry(x)
		key := [2]string{e.Kind, alike(x)}
		i, there := at[key]
		if !there || !slices.Contains(small, e.Kind) {
			at[key] = len(groups)
			groups = append(groups, group[T]{e, x, 1})
			continue
		}
		g := &groups[i]
		g.count++
		g.Size += e.Size
		g.OnDisk += e.OnDisk
		g.InUse = g.InUse || e.InUse
		g.Sources = append(g.Sources[:len(g.Sources):len(g.Sources)], e.Sources...)
		if e.LastUse.After(g.LastUse) {
			g.LastUse = e.LastUse
		}
	}
	return groups
}

// entrySize is how large an entry is, and what is still to come of it.
func entrySize(e baseimage.Entry) string {
	switch {
	case e.Kind != baseimage.KindDownload:
		return wholeMiB(e.Size)
	case e.Whole:
		return wholeMiB(e.Size) + ", not unpacked"
	case e.Total > 0:
		return fmt.Sprintf("%d of %s", e.Size>>20, wholeMiB(e.Total))
	}
	return wholeMiB(e.Size) + " so far"
}

// wholeMiB rounds up: what is there takes something.
func wholeMiB(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }

func lastUsed(e baseimage.Entry, now time.Time) string {
	if e.InUse {
		return "in use"
	}
	switch days := int(now.Sub(e.LastUse) / (24 * time.Hour)); {
	case days <= 0:
		return "today"
	case days == 1:
		return "1 day ago"
	default:
		return fmt.Sprintf("%d days ago", days)
	}
}

func entryNames(e baseimage.Entry) string {
	var names []string
	for _, source := range e.Sources {
		names = append(names, source.Name)
	}
	switch most := 3; {
	case len(names) == 0 && slices.Contains(small, e.Kind):
		return ""
	case len(names) == 0:
		return "unknown"
	case len(names) > most+1 && slices.Contains(small, e.Kind):
		names = append(names[:most:most], fmt.Sprintf("and %d more", len(names)-most))
	}
	return strings.Join(names, ", ")
}

func newCacheDir(s *settings, dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "dir",
		Short:   "Print the cache's folder",
		Long:    `dir prints the folder of the cache, whether it is there or not.`,
		Example: `  du -sh "$(hatchery cache dir)"`,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			place, err := baseimage.Dir(*dir)
			if err != nil {
				return err
			}
			if s.json {
				return printJSON(c.OutOrStdout(), map[string]string{"dir": place})
			}
			fmt.Fprintln(c.OutOrStdout(), place)
			return nil
		},
	}
}

func newCacheAdd(s *settings, dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "add FILE...",
		Short: "Put image files into the cache",
		Long: `add unpacks image files into the cache, as a build that names them does. A file
is known by its digest afterwards: where cluster.lock, or a sha256 in the cluster
file, names the same one, builds need no network for it.`,
		Example: `  hatchery cache add /media/stick/2025-12-04-raspios-trixie-armhf-lite.img.xz`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("`hatchery cache add` needs the files to put into the cache")}
			}
			cache, err := baseimage.OpenCache(*dir, baseimage.Offline())
			if err != nil {
				return err
			}
			display := s.display(c)
			defer display.Close()
			type added struct {
				File         string        `json:"file"`
				SourceDigest digest.Digest `json:"source_digest"`
				Digest       digest.Digest `json:"digest"`
				Size         int64         `json:"size"`
			}
			all := []added{}
			for _, file := range args {
				image, err := cache.Get(c.Context(), baseimage.Ref{Source: file}, display)
				if err != nil {
					return err
				}
				image.Close()
				all = append(all, added{file, image.SourceDigest, image.Digest, image.Size})
			}
			if s.json {
				return printJSON(c.OutOrStdout(), all)
			}
			for _, a := range all {
				fmt.Fprintf(c.OutOrStdout(), "%s: sha256 %s, an image of %s\n", a.File, a.SourceDigest.Encoded(), wholeMiB(a.Size))
			}
			return nil
		},
	}
}

func newCacheVerify(s *settings, dir *string) *cobra.Command {
	var options baseimage.VerifyOptions
	c := &cobra.Command{
		Use:   "verify",
		Short: "Read everything in the cache and compare it with its digest",
		Long: `verify reads everything in the cache but downloads that are not whole, and compares
it with its digest. Builds believe a base image whose size, times and inode are as
they were, and a Docker layer that can be opened: what a dying disk does to them
shows here. It removes nothing unless it is told to. Exit code 1 where something
damaged is left.`,
		Example: `  hatchery cache verify
  hatchery cache verify --remove   # the next build makes it anew`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cache, err := baseimage.OpenCache(*dir)
			if err != nil {
				return err
			}
			display := s.display(c)
			options.Progress = display
			findings, err := cache.Verify(c.Context(), options)
			display.Close()
			if err != nil {
				return err
			}
			damaged, left := 0, 0
			for _, f := range findings {
				if f.Problem != "" {
					damaged++
					if !f.Removed {
						left++
					}
				}
			}
			failure := damage(left, len(findings), options.Remove)
			if s.json {
				err := printJSON(c.OutOrStdout(), struct {
					Dir      string              `json:"dir"`
					Damaged  int                 `json:"damaged"`
					Findings []baseimage.Finding `json:"findings"`
				}{cache.Dir(), damaged, append([]baseimage.Finding{}, findings...)})
				if err == nil && failure != nil {
					err = errors.Join(errReported, failure)
				}
				return err
			}
			for _, g := range grouped(findings, func(f baseimage.Finding) baseimage.Entry { return f.Entry }, func(f baseimage.Finding) string {
				if f.Problem != "" {
					return f.Path
				}
				return ""
			}) {
				verdict := "good"
				switch f := g.first; {
				case f.Removed:
					verdict = "removed: " + f.Problem
				case f.Problem != "":
					verdict = "DAMAGED: " + f.Problem
				}
				names := entryNames(g.Entry)
				if names != "" {
					names = " (" + names + ")"
				}
				fmt.Fprintf(c.OutOrStdout(), "%s %s%s: %s\n", g.Kind, g.id(), names, verdict)
			}
			if failure == nil {
				fmt.Fprintf(c.OutOrStdout(), "Verified %d in %s: %d good, %d removed.\n", len(findings), cache.Dir(), len(findings)-damaged, damaged)
			}
			return failure
		},
	}
	c.Flags().BoolVar(&options.Remove, "remove", false, "remove what is damaged, unless a build uses it")
	return c
}

// damage is the error for what verify found and is still there; nil for none.
func damage(left, of int, removing bool) error {
	switch {
	case left == 0:
		return nil
	case removing:
		return fmt.Errorf("%d of %d in the cache are damaged and in use: try again when the builds are done", left, of)
	}
	return fmt.Errorf("%d of %d in the cache are damaged: `hatchery cache verify --remove` removes them, and the next build makes them anew", left, of)
}

// age is a time span for people: Go's notation, or days and weeks.
type age time.Duration

func (a *age) String() string {
	if d := time.Duration(*a); d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return time.Duration(*a).String()
}

func (a *age) Set(text string) error {
	d, err := time.ParseDuration(text)
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			var n uint64
			n, err = strconv.ParseUint(number, 10, 15) // 90 years and more overflow nothing
			d = time.Duration(n) * unit
		}
	}
	if err != nil || d < 0 {
		return errors.New("give a time span such as 30d, 2w or 12h")
	}
	*a = age(d)
	return nil
}

func (a *age) Type() string { return "age" }

func newCachePrune(s *settings, dir *string) *cobra.Command {
	var (
		unused = age(30 * 24 * time.Hour)
		all    bool
		dryRun bool
	)
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove from the cache what was not used for a while",
		Long: `prune removes what no build used for 30 days: base images, Docker layers, packages,
parts of container images, what was said of them; downloads that were broken off and
not taken up again for as long; and what killed builds left. What the present cluster needs stays, however
old it is: the images, packages and container images that cluster.lock, or a sha256
in the cluster file, names. A Docker layer is made anew from these without a
network. What a build uses right now stays in any case.`,
		Example: `  hatchery cache prune --dry-run   # only show what would go
  hatchery cache prune --unused 2w
  hatchery cache prune --all       # what the cluster needs, too`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if all && c.Flags().Changed("unused") {
				return usageError{errors.New("--all removes what was used lately too: leave --unused out")}
			}
			options := baseimage.PruneOptions{Unused: time.Duration(unused), DryRun: dryRun}
			if all {
				options.Unused = 0
			} else {
				var err error
				if options.Keep, err = named(s.file); err != nil {
					return err
				}
			}
			cache, err := baseimage.OpenCache(*dir)
			if err != nil {
				return err
			}
			pruned, failure := cache.Prune(options)
			if s.json {
				err := printJSON(c.OutOrStdout(), struct {
					Dir     string             `json:"dir"`
					DryRun  bool               `json:"dry_run"`
					Entries []baseimage.Pruned `json:"entries"`
				}{cache.Dir(), dryRun, append([]baseimage.Pruned{}, pruned...)})
				return errors.Join(err, failure)
			}
			printPruned(c.OutOrStdout(), pruned, dryRun, cache.Dir())
			return failure
		},
	}
	flags := c.Flags()
	flags.Var(&unused, "unused", "remove what was not used for so long: 30d, 2w, 12h; 0 for whatever the cluster does not name")
	flags.BoolVar(&all, "all", false, "remove everything, also what the cluster names")
	flags.BoolVarP(&dryRun, "dry-run", "n", false, "show what would be removed, and remove nothing")
	return c
}

// named gives the digests that a cluster needs: those of its cluster.lock, and
// those in the cluster file. A cluster file that is not there, or not valid,
// names nothing; a lock that cannot be read may name everything.
func named(file string) ([]digest.Digest, error) {
	var keep []digest.Digest
	add := func(sha256 string) {
		if sha256 != "" {
			keep = append(keep, digest.NewDigestFromEncoded(digest.SHA256, sha256))
		}
	}
	lock, err := clusterlock.Read(filepath.Dir(file))
	var mistake *clusterlock.InputError
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.As(err, &mistake):
		return nil, &imagebuilder.InputError{Err: err}
	case err != nil:
		return nil, err
	default:
		for _, image := range lock.Images {
			add(image.SHA256)
			add(image.ImageSHA256)
		}
		for _, set := range lock.Packages {
			add(strings.TrimPrefix(set.Base, "sha256:"))
			for _, p := range set.Packages {
				add(p.SHA256)
			}
		}
		for _, c := range lock.Containers {
			add(strings.TrimPrefix(c.Digest, "sha256:"))
		}
	}
	if cluster, err := spec.Load(file); err == nil {
		for _, t := range cluster.Targets() {
			add(t.Base.SHA256)
		}
	}
	return keep, nil
}

func printPruned(w io.Writer, pruned []baseimage.Pruned, dryRun bool, dir string) {
	now := time.Now()
	verb, did, end := "removed", "Removed", "are free again"
	if dryRun {
		verb, did, end = "would go", "Would remove", "would be free again"
	}
	removed, freed := 0, int64(0)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, g := range grouped(pruned, func(p baseimage.Pruned) baseimage.Entry { return p.Entry }, func(p baseimage.Pruned) string { return p.Why }) {
		what, names := "kept", entryNames(g.Entry)
		if g.first.Removed {
			what = verb
			removed += g.count
			freed += g.OnDisk
		}
		if g.count > 1 {
			names = strings.TrimSuffix(g.id()+": "+names, ": ")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", what, g.Kind, wholeMiB(g.OnDisk), lastUsed(g.Entry, now), g.first.Why, names)
	}
	t.Flush()
	fmt.Fprintf(w, "%s %d of %d in %s: %s %s.\n", did, removed, len(pruned), dir, wholeMiB(freed), end)
}
