package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hatchery/internal/atomicfile"
	"hatchery/internal/spec"
)

func newInit(s *settings) *cobra.Command {
	var data spec.TemplateData
	c := &cobra.Command{
		Use:   "init",
		Short: "Write a commented cluster file to start from",
		Long: `init writes a cluster file in which every setting is explained, with the
public keys that it finds in ~/.ssh. It never overwrites one that exists.`,
		Example: `  hatchery init
  hatchery init --name homelab --base ~/Downloads/raspios_lite_armhf.img.xz`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := os.Lstat(s.file); err == nil {
				return usageError{fmt.Errorf("%s exists; edit it, or name another file with -f", s.file)}
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			data.Keys = publicKeys()
			if err := atomicfile.WriteBytes(s.file, spec.Template(data), 0o644); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Wrote %s.", s.file)
			if len(data.Keys) == 0 {
				fmt.Fprintf(c.OutOrStdout(), " No public key was found in ~/.ssh: make one with `ssh-keygen -t ed25519` and name it under user.")
			}
			fmt.Fprintf(c.OutOrStdout(), " Next: `hatchery check`, then `hatchery build`.\n")
			return nil
		},
	}
	c.Flags().StringVar(&data.Name, "name", "homelab", "the cluster's name")
	c.Flags().StringVar(&data.Image, "base", "", "the base image: a file or an https URL")
	c.Flags().StringVar(&data.SHA256, "sha256", "", "the base image's SHA-256; wanted for a URL")
	return c
}

// publicKeys are the user's public keys, as cluster.yaml names them.
func publicKeys() []string {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	found, err := filepath.Glob(filepath.Join(home, ".ssh", "*.pub"))
	if err != nil {
		return nil
	}
	var keys []string
	for _, path := range found {
		keys = append(keys, "~/.ssh/"+filepath.Base(path))
	}
	return keys
}
