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
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"hatchery/imagebuilder/filekind"
	"hatchery/internal/capacity"
	"hatchery/internal/clusterctrl"
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
			if err != nil {
				return fmt.Errorf("cannot take %s: %w", args[0], err)
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

// An imageStream is an image file, decompressed from its start to its end.
type imageStream struct {
	io.Reader
	size  int64 // 0 where it is not known
	close []func() error
}

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
