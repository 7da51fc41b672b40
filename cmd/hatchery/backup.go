package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hatchery/internal/atomicfile"
)

func newBackup(s *settings) *cobra.Command {
	st := &station{settings: s}
	c := &cobra.Command{
		Use:   "backup [FILE]",
		Short: "Fetch a backup of the swarm",
		Long: `backup has the controller take a backup of its swarm (services, secrets, nodes,
certificates) and of what the enrolment service knows, while it all runs, and
writes it to FILE, or to stdout for "-".

It is sealed: only the controller's own key opens it, which lies in its image and
in identity/controller beside the cluster file. The nodes keep the latest two as
well, and a controller that was flashed again asks them for the newest, so this is
for the drawer. To put one back, lay it as /var/lib/hatchery/backups/restore on
the freshly flashed controller (docs/first-boot.md).`,
		Example: `  hatchery backup --on hammond             # swarm-2026-11-22T101530Z.backup
  sudo hatchery backup /mnt/usb/swarm      # on the controller
  sudo hatchery backup - | ssh nas 'cat > swarm'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{errors.New("one file, or - for stdout")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			take := func(w io.Writer) error {
				if st.on != "" {
					args := []string{"backup", "-"}
					if s.json {
						args = append(args, "--json") // for its errors
					}
					return st.remote(c.Context(), w, c.ErrOrStderr(), args)
				}
				return st.run(c, nil, func(ctx context.Context) error { return st.service().Backup(ctx, w) })
			}
			if len(args) == 1 && args[0] == "-" {
				if onTerminal(c.OutOrStdout()) {
					return usageError{errors.New("a backup is not for the screen: name a file, or send it into a pipe")}
				}
				return take(c.OutOrStdout())
			}
			place := "swarm-" + time.Now().UTC().Format("2006-01-02T150405Z") + ".backup"
			if len(args) == 1 {
				place = args[0]
			}
			size, err := writeBackup(place, take)
			if err != nil {
				return err
			}
			if s.json {
				return printJSON(c.OutOrStdout(), struct {
					File  string `json:"file"`
					Bytes int64  `json:"bytes"`
				}{place, size})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %d KiB, sealed to the controller's key.\n", place, (size+1023)>>10)
			return nil
		},
	}
	st.flags(c)
	return c
}

// writeBackup writes what take gives to a file, whole or not at all.
func writeBackup(place string, take func(io.Writer) error) (size int64, err error) {
	// The file takes the place of what is there: of a file that was, and not of
	// a device, which root's /dev/sdb or /dev/stdout is.
	if info, err := os.Stat(place); err == nil && !info.Mode().IsRegular() {
		return 0, usageError{fmt.Errorf("%s is no file: name one, or - for stdout", place)}
	}
	f, err := atomicfile.Create(place, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Discard()
	if err := take(f); err != nil {
		return 0, err
	}
	info, err := os.Stat(f.Name())
	if err != nil {
		return 0, err
	}
	if info.Size() == 0 {
		return 0, errors.New("the controller sent nothing")
	}
	return info.Size(), f.Commit()
}
