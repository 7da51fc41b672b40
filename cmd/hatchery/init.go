package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
public keys that it finds in ~/.ssh. It never overwrites one that exists.

The base image is a name of Raspberry Pi's OS list (` + "`hatchery lock --list`" + ` shows
all), which build fetches and remembers; or a file, which need not be there yet;
or an https URL.`,
		Example: `  hatchery init
  hatchery init --name attic --base raspios_oldstable_lite_armhf
  hatchery init --base ~/Downloads/raspios_lite_armhf.img.xz`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := os.Lstat(s.file); err == nil {
				return usageError{fmt.Errorf("%s exists; edit it, or name another file with -f", s.file)}
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if data.Image == "" {
				data.Image = spec.DefaultImage
			}
			data.Keys = publicKeys(s.file)
			content := spec.Template(data)
			lacks, err := unfit(s.file, content)
			if err != nil {
				return err
			}
			if err := atomicfile.CreateOnce(s.file, content, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Wrote %s.", s.file)
			if len(data.Keys) == 0 {
				fmt.Fprintf(c.OutOrStdout(), " No public key was found in ~/.ssh: make one with `ssh-keygen -t ed25519` and name it under user.")
			}
			fmt.Fprint(c.OutOrStdout(), " Next: ")
			if lacks {
				fmt.Fprintf(c.OutOrStdout(), "put the Raspberry Pi OS image at %s, or name where it is under base; ", besideFile(s.file, data.Image))
			}
			fetches := ""
			if spec.ImageKind(data.Image) != spec.BaseFile {
				fetches = ", which fetches the base image once"
			}
			fmt.Fprintf(c.OutOrStdout(), "`hatchery check`, then `hatchery build`%s.\n", fetches)
			return nil
		},
	}
	c.Flags().StringVar(&data.Name, "name", "homelab", "the cluster's name")
	c.Flags().StringVar(&data.Image, "base", spec.DefaultImage, "the base image: a name of Raspberry Pi's OS list, a file or an https URL")
	c.Flags().StringVar(&data.SHA256, "sha256", "", "the base image's SHA-256, where it is to be exactly that one")
	return c
}

// unfit refuses a cluster file that check or build would refuse for what the
// flags said, and says whether it waits for its image.
func unfit(file string, content []byte) (imageMissing bool, err error) {
	var wrong []string
	cluster, err := spec.Parse(file, content)
	var mistakes *spec.Errors
	switch {
	case errors.As(err, &mistakes):
		for _, p := range mistakes.Problems {
			if !p.Pending {
				wrong = append(wrong, p.Path+": "+p.Message)
			} else if p.Path == "base.image" {
				imageMissing = true
			}
		}
	case err != nil:
		return false, err
	default:
		for _, p := range cluster.Unbuilt() {
			wrong = append(wrong, p.Path+": "+p.Message)
		}
	}
	if len(wrong) > 0 {
		return false, usageError{fmt.Errorf("%s was not written, since it would be invalid: %s", file, strings.Join(wrong, "; "))}
	}
	return imageMissing, nil
}

// besideFile is a path of a cluster file as it is called from here.
func besideFile(file, path string) string {
	if dir := filepath.Dir(file); dir != "." && !filepath.IsAbs(path) && !strings.HasPrefix(path, "~") {
		return filepath.Join(dir, path)
	}
	return path
}

// publicKeys are the user's public keys that a cluster takes, as the cluster
// file names them. Others lie in ~/.ssh as well: certificates, keys of other
// programs.
func publicKeys(file string) []string {
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
		if key := "~/.ssh/" + filepath.Base(path); fitKey(file, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

func fitKey(file, key string) bool {
	_, err := spec.Parse(file, spec.Template(spec.TemplateData{Keys: []string{key}}))
	var mistakes *spec.Errors
	return !errors.As(err, &mistakes) || !slices.ContainsFunc(mistakes.Problems, func(p spec.Problem) bool {
		return strings.HasPrefix(p.Path, "user.authorized_keys")
	})
}
