package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/imagebuilder/oslist"
	"hatchery/imagebuilder/release"
	"hatchery/internal/download"
	"hatchery/internal/spec"
)

func newLock(s *settings) *cobra.Command {
	var (
		options imagebuilder.LockOptions
		list    bool
		offline bool
	)
	c := &cobra.Command{
		Use:   "lock [NAME...]",
		Short: "Move on to the newest base images, packages and container images",
		Long: `lock looks up what the base images of the cluster file stand for now: the newest
release under a name of Raspberry Pi's OS list, and the file behind a URL without
a sha256. Then it chooses the Debian packages that Docker takes, from the package
sources of the base images, and looks up the container images to preload. It
shows what changed, and writes it into cluster.lock beside the cluster file: from
then on every build, on any day and any workstation, is made from exactly these
files. Without a NAME it does so for all of them, and drops what is not used any
more; the name docker stands for packages and container images.

Packages are chosen for base images that are in the cache. For one that is not
there yet, the next build does it.

Where a name stands for another file than before, the epoch in cluster.lock, which
is every timestamp in the images, becomes the present moment. Where nothing
changed, cluster.lock is not touched. Commit it together with the cluster file.

build pins what is not pinned yet by itself, so the first build needs no lock.`,
		Example: `  hatchery lock --list             # which names are there?
  hatchery lock --dry-run          # is there anything newer?
  hatchery lock                    # move on to it
  hatchery lock docker             # packages and container images alone
  hatchery lock raspios_lite_armhf # with this one alone`,
		RunE: func(c *cobra.Command, names []string) error {
			switch {
			case offline:
				return usageError{errors.New("lock asks the network what is new, so it cannot do without: leave --offline out. A build does without once everything is pinned in cluster.lock and in the cache")}
			case list && (len(names) > 0 || options.DryRun):
				return usageError{errors.New("--list shows all names and locks none: leave the rest out")}
			case list:
				return listNames(c, s)
			}
			cluster, err := spec.Load(s.file)
			if err != nil {
				return err
			}
			options.Names = names
			display := s.display(c)
			options.Progress = display
			result, err := imagebuilder.RefreshLock(c.Context(), cluster, options)
			display.Close()
			if err != nil {
				return err
			}
			if s.json {
				return printJSON(c.OutOrStdout(), result)
			}
			printWarnings(c.ErrOrStderr(), result.Warnings)
			printLock(c.OutOrStdout(), result, options.DryRun)
			return nil
		},
	}
	flags := c.Flags()
	flags.BoolVarP(&options.DryRun, "dry-run", "n", false, "show what would change, and write nothing")
	flags.StringVar(&options.Cache, "cache", "", "the cache folder (default: hatchery in the user's cache folder)")
	flags.BoolVar(&options.IgnoreExpiry, "ignore-expiry", false, "take package archives whose signed index says that it is out of date")
	flags.StringVar(&options.AssumeRelease, "assume-release", "",
		"treat a base image of an unknown release as this one ("+strings.Join(release.Known(), ", ")+")")
	flags.BoolVar(&list, "list", false, "show all names of the OS list, and lock nothing")
	flags.BoolVar(&offline, "offline", false, "lock cannot do without a network, and says so")
	flags.Lookup("offline").Hidden = true
	return c
}

func printLock(w io.Writer, r *imagebuilder.LockResult, dryRun bool) {
	if len(r.Images)+len(r.Packages)+len(r.Containers) == 0 {
		fmt.Fprintln(w, "There is nothing to lock: the cluster's base images are files, or URLs with their sha256.")
		return
	}
	for _, i := range r.Images {
		fmt.Fprintf(w, "%s: %s\n", i.Name, i.State)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if i.Was != nil && i.State != imagebuilder.PinUnchanged {
			printPin(t, "was", *i.Was)
		}
		if i.Is != nil {
			printPin(t, "is", *i.Is)
		}
		t.Flush()
	}
	printDockerPins(w, r)
	file := filepath.Base(r.File)
	switch {
	case !r.Changed():
		fmt.Fprintf(w, "%s is up to date.\n", file)
	case dryRun:
		fmt.Fprintf(w, "%s was not written (--dry-run).\n", file)
	default:
		epoch := ""
		if r.EpochWas != 0 {
			epoch = fmt.Sprintf(" Its epoch is %s now.", time.Unix(r.Epoch, 0).UTC().Format("2006-01-02 15:04:05 UTC"))
		}
		fmt.Fprintf(w, "Wrote %s.%s Next: `hatchery build` brings the images up to date.\n", file, epoch)
	}
}

// printDockerPins shows which packages and container images are other ones than
// before.
func printDockerPins(w io.Writer, r *imagebuilder.LockResult) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	show := func(name, state, was, is string) {
		switch state {
		case imagebuilder.PinUpdated:
			fmt.Fprintf(t, "  %s\t%s → %s\n", name, was, is)
		case imagebuilder.PinAdded:
			fmt.Fprintf(t, "  %s\t%s\n", name, is)
		case imagebuilder.PinRemoved:
			fmt.Fprintf(t, "  %s\tremoved, was %s\n", name, was)
		}
	}
	if len(r.Packages) > 0 {
		states := make([]string, len(r.Packages))
		for i, p := range r.Packages {
			states[i] = p.State
		}
		fmt.Fprintf(t, "docker, packages: %s\n", counts(states))
		for _, p := range r.Packages {
			show(p.Name, p.State, p.Was, p.Is)
		}
	}
	if len(r.Containers) > 0 {
		states := make([]string, len(r.Containers))
		for i, c := range r.Containers {
			states[i] = c.State
		}
		fmt.Fprintf(t, "docker, container images: %s\n", counts(states))
		for _, c := range r.Containers {
			show(c.Image+" ("+c.Platform+")", c.State, shortDigest(c.Was), shortDigest(c.Is))
		}
	}
}

// counts says how many pins are in which state: 2 updated, 13 unchanged.
func counts(states []string) string {
	var parts []string
	for _, state := range []string{imagebuilder.PinAdded, imagebuilder.PinUpdated, imagebuilder.PinRemoved, imagebuilder.PinUnchanged} {
		n := 0
		for _, s := range states {
			if s == state {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return strings.Join(parts, ", ")
}

func shortDigest(d string) string {
	if len(d) > 19 {
		return d[:19] + "…"
	}
	return d
}

func printPin(w io.Writer, when string, pin clusterlock.Image) {
	columns := []string{"  " + when}
	for _, text := range []string{pin.Released, mebibytes(pin.Size), "sha256 " + pin.SHA256[:12] + "…", pin.URL} {
		if text != "" {
			columns = append(columns, text)
		}
	}
	fmt.Fprintln(w, strings.Join(columns, "\t"))
}

// mebibytes is a size for people; "" where it is not known.
func mebibytes(size int64) string {
	if size == 0 {
		return ""
	}
	return fmt.Sprintf("%d MiB", (size+1<<20-1)>>20)
}

// listNames shows all names of the OS list. It needs no cluster file: who
// writes one looks here first.
func listNames(c *cobra.Command, s *settings) error {
	source := ""
	switch cluster, err := spec.Load(s.file); {
	case err == nil:
		source = cluster.OSList
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	display := s.display(c)
	list, err := imagebuilder.OSList(c.Context(), source, display)
	display.Close()
	if err != nil {
		return err
	}
	if source == "" {
		source = oslist.DefaultURL
	}
	entries := list.Entries()
	if s.json {
		if entries == nil {
			entries = []oslist.Entry{}
		}
		return printJSON(c.OutOrStdout(), struct {
			List   string         `json:"list"`
			Images []oslist.Entry `json:"images"`
		}{download.Shown(source), entries})
	}
	t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tRELEASED\tDOWNLOAD\tARCH\tTITLE")
	for _, e := range entries {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", e.Name, dash(e.Released), dash(mebibytes(e.Size)), dash(e.Architecture), e.Title)
	}
	return t.Flush()
}
