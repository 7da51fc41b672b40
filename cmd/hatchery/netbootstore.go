package main

import (
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/filekind"
	"hatchery/internal/capacity"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/internal/xz"
	"hatchery/netboot/store"
)

func newNetbootImport(s *settings) *cobra.Command {
	dir := ""
	c := &cobra.Command{
		Use:   "import IMAGE [SLOT...]",
		Short: "Take an image as what slots boot (on the controller)",
		Long: `import takes an image file into the controller's store, raw or compressed (.xz,
.gz, .zst, .zip), and has slots boot it from the next time on. An image that
hatchery built for a slot is for that slot alone; any other Raspberry Pi OS image
boots too, without agent and identity.

The same image for several slots is stored once. A push shares more: one base for
all slots.`,
		Example: `  sudo hatchery netboot import out/p3.img p3
  sudo hatchery netboot import raspios-lite.img.xz p4 && sudo hatchery netboot enable p4`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("name an image file: `hatchery netboot import p3.img p3`")}
			}
			return slotArgs(c, args[1:])
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := areSlots(args[1:]); err != nil {
				return err
			}
			image, err := openStream(args[0])
			if err != nil {
				return err
			}
			defer image.Close()
			st, err := openStore(dir)
			if err != nil {
				return err
			}
			defer st.Close()
			release, err := st.Hold(c.Context())
			if err != nil {
				return err
			}
			defer release()
			display := s.display(c)
			digest, err := st.AddBase(c.Context(), image, store.Import{Name: args[0], Size: image.size, Reporter: display})
			display.Close()
			if damaged := image.damaged(); err != nil && damaged != nil {
				return usageError{fmt.Errorf("%s cannot be read to its end: %w: fetch or make it again", args[0], damaged)}
			}
			if err != nil {
				return fmt.Errorf("cannot take %s: %w", args[0], err)
			}
			if err := fits(filepath.Join(st.Dir(), "bases", digest.Encoded()+".img"), args[0], args[1:]); err != nil {
				return err
			}
			result := imported{Digest: digest.String(), Slots: []string{}}
			for _, name := range args[1:] {
				n, err := clusterctrl.ParseSlot(name)
				if err != nil {
					return usageError{err}
				}
				root := store.Root{Base: digest, By: whoAmI(), Label: store.Label{File: filepath.Base(args[0])}}
				if _, err := st.Assign(c.Context(), n, root); err != nil {
					return fmt.Errorf("cannot have %s boot it: %w", name, err)
				}
				result.Slots = append(result.Slots, name)
			}
			if s.json {
				return printJSON(c.OutOrStdout(), result)
			}
			printLine(c.OutOrStdout(), "The store has %s.", digest)
			for _, name := range result.Slots {
				printLine(c.OutOrStdout(), "%s: boots it the next time, if netboot is enabled for it (`hatchery netboot enable %s`).", name, name)
			}
			return nil
		},
	}
	storeFlag(c, &dir)
	return c
}

type imported struct {
	Digest string   `json:"digest"`
	Slots  []string `json:"slots"`
}

func storeFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "store", store.Dir, "the store's `FOLDER`")
}

// areSlots sees that slots are of this controller's cluster, where there is one.
func areSlots(names []string) error {
	node, err := nodefile.Read(nodefile.Path)
	if err != nil {
		return nil // no controller of hatchery's: the service says what it serves
	}
	for _, name := range names {
		if !slices.ContainsFunc(node.Targets, func(t nodefile.Target) bool { return t.Name == name && t.Slot > 0 }) {
			return usageError{fmt.Errorf("%s is not a slot of this cluster", name)}
		}
	}
	return nil
}

// fits sees that an image which hatchery built is for the slots that are to boot
// it: two nodes that are the same one disturb each other.
func fits(path, name string, slots []string) error {
	im, err := imagebuilder.OpenImage(context.Background(), path, imagebuilder.ImageOptions{})
	if err != nil {
		return usageError{fmt.Errorf("%s is taken in, and boots nothing: %w", name, err)}
	}
	defer im.Close()
	root, err := im.Partition(2)
	if err != nil {
		return usageError{fmt.Errorf("%s is taken in, and boots nothing: %w", name, err)}
	}
	f, err := root.Open(nodefile.Path)
	if err != nil {
		return nil // not hatchery's
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return err
	}
	node, err := nodefile.Parse(content)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", name, err)}
	}
	for _, slot := range slots {
		if slot != node.Name {
			return usageError{fmt.Errorf("%s was built for %s of the cluster %s, and %s would pass for that: build an image for %s", name, node.Name, node.Cluster, slot, slot)}
		}
	}
	return nil
}

// An imageStream is an image file, decompressed from its start to its end.
type imageStream struct {
	io.Reader
	size  int64 // 0 where it is not known
	close []func() error
	err   error // of reading
}

func (s *imageStream) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// damaged is what is wrong with the file itself, nil where it was read to its end.
func (s *imageStream) damaged() error { return s.err }

func (s *imageStream) Close() {
	for i := len(s.close) - 1; i >= 0; i-- {
		s.close[i]()
	}
}

// openStream opens an image file.
func openStream(name string) (_ *imageStream, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, usageError{err}
	}
	s := &imageStream{close: []func() error{f.Close}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, usageError{fmt.Errorf("%s is no file", name)}
	}
	head := make([]byte, filekind.HeadSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	kind := filekind.Of(head[:n])
	switch kind.Format {
	case filekind.Raw:
		s.Reader, s.size = f, info.Size()
	case filekind.XZ:
		z, err := xz.NewReader(f)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", name, err)}
		}
		s.Reader = z
		if size, err := xz.UncompressedSize(f, info.Size()); err == nil {
			s.size = size
		}
	case filekind.Gzip:
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", name, err)}
		}
		s.Reader = z
	case filekind.Zstd:
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", name, err)}
		}
		s.Reader = z
		s.close = append(s.close, func() error { z.Close(); return nil })
	case filekind.Zip:
		return s, s.zipped(f, info.Size(), name)
	default:
		return nil, usageError{fmt.Errorf("%s %s", name, kind.Is())}
	}
	return s, nil
}

// zipped opens the one image in a zip file.
func (s *imageStream) zipped(f *os.File, size int64, name string) error {
	z, err := zip.NewReader(f, size)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", name, err)}
	}
	for _, member := range z.File {
		if !strings.HasSuffix(strings.ToLower(member.Name), ".img") {
			continue
		}
		r, err := member.Open()
		if err != nil {
			return usageError{fmt.Errorf("%s: %w", name, err)}
		}
		s.Reader, s.size, s.close = r, int64(member.UncompressedSize64), append(s.close, r.Close)
		return nil
	}
	return usageError{fmt.Errorf("%s has no .img in it", name)}
}

func newNetbootSpace(s *settings) *cobra.Command {
	st, dir := &station{settings: s}, ""
	c := &cobra.Command{
		Use:   "space",
		Short: "Show what takes how much of the controller's card",
		Long: `space shows what the controller's store takes: bases and layers, and which slots
boot of them; what each slot stores of its own; and what is free.`,
		Example: `  hatchery netboot space --on hammond`,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return st.run(c, []string{"netboot", "space"}, func(context.Context) error {
				opened, err := openStore(dir)
				if err != nil {
					return err
				}
				defer opened.Close()
				usage, err := opened.Space()
				if err != nil {
					return err
				}
				if s.json {
					return printJSON(c.OutOrStdout(), usage)
				}
				printSpace(c.OutOrStdout(), usage)
				return nil
			})
		},
	}
	st.flags(c)
	storeFlag(c, &dir)
	return c
}

func printSpace(w io.Writer, u *store.Usage) {
	for _, o := range u.Objects {
		used := "nobody: `hatchery netboot collect` removes it"
		if len(o.Slots) > 0 {
			var names []string
			for _, n := range o.Slots {
				names = append(names, clusterctrl.SlotName(n))
			}
			used = strings.Join(names, " ")
		}
		printLine(w, "%-5s  %.12s  %9s  %s", o.Kind, o.Digest.Encoded(), capacity.Text(o.Stored), used)
	}
	for _, o := range u.Partial {
		printLine(w, "%-5s  %.12s  %9s  arrived in part: the next push goes on", o.Kind, o.Digest.Encoded(), capacity.Text(o.Stored))
	}
	for _, slot := range u.Slots {
		quota := ""
		if slot.Quota > 0 {
			quota = " of " + capacity.Text(slot.Quota)
		}
		kept := ""
		if slot.Previous > 0 {
			kept = ", " + capacity.Text(slot.Previous) + " kept for undo"
		}
		printLine(w, "%-5s  %-12s  %9s  its own%s%s; shared %s", clusterctrl.SlotName(slot.Slot), "", capacity.Text(slot.Top), quota, kept, capacity.Text(slot.Shared))
	}
	printLine(w, "The store takes %s; %s of %s are free, of which %s stay so.", capacity.Text(u.Stored), capacity.Text(u.Free), capacity.Text(u.Total), capacity.Text(u.Reserve))
}

func newNetbootCollect(s *settings) *cobra.Command {
	st, dir := &station{settings: s}, ""
	var o store.CollectOptions
	c := &cobra.Command{
		Use:   "collect",
		Short: "Remove bases and layers that no slot boots or can go back to",
		Example: `  hatchery netboot collect --dry-run
  hatchery netboot collect --on hammond`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			args := []string{"netboot", "collect", "--dry-run=" + strconv.FormatBool(o.DryRun), "--partial=" + strconv.FormatBool(o.Partial)}
			return st.run(c, args, func(ctx context.Context) error {
				opened, err := openStore(dir)
				if err != nil {
					return err
				}
				defer opened.Close()
				garbage, err := opened.Collect(ctx, o)
				if err != nil {
					return err
				}
				if s.json {
					if garbage == nil {
						garbage = []store.Garbage{}
					}
					return printJSON(c.OutOrStdout(), garbage)
				}
				var sum int64
				for _, g := range garbage {
					printLine(c.OutOrStdout(), "%-7s  %.12s  %9s", g.Kind, g.Digest.Encoded(), capacity.Text(g.Stored))
					sum += g.Stored
				}
				done := "were removed"
				if o.DryRun {
					done = "would be removed"
				}
				printLine(c.OutOrStdout(), "%s %s.", capacity.Text(sum), done)
				return nil
			})
		},
	}
	st.flags(c)
	storeFlag(c, &dir)
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only show them")
	c.Flags().BoolVar(&o.Partial, "partial", false, "remove what arrived in part too: a push that goes on sends it anew")
	return c
}

func newNetbootReceive(s *settings) *cobra.Command {
	dir := ""
	c := &cobra.Command{
		Use:    "receive",
		Hidden: true,
		Short:  "The controller's end of `hatchery push`",
		Args:   noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			display := s.display(c)
			defer display.Close()
			return receive(c.Context(), os.Stdin, os.Stdout, dir, display)
		},
	}
	storeFlag(c, &dir)
	return c
}
