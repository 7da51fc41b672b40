package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/release"
	"hatchery/internal/spec"
)

func newBuild(s *settings) *cobra.Command {
	var options imagebuilder.Options
	c := &cobra.Command{
		Use:   "build [TARGET...]",
		Short: "Make the images of the controller and the slots",
		Long: `build makes an image for the controller and one for every slot, or for the
targets named (controller, p1, p2, …). It opens the base image, verifies and
decompresses it once into a cache, and edits the file systems in it by itself:
no root, no mount, no emulator.

An image that exists is brought up to date by rewriting only what changed; one
that was changed by somebody else is written afresh. Interrupted at any point,
it leaves no partial image, and the next run goes on.

Docker goes in with the images: its packages come from the package sources of the
base image itself, verified as apt does it, and are unpacked once for all targets;
each node configures them when it starts for the first time. Versions are pinned
in cluster.lock.

Beside each image it writes a block map (p1.img.bmap), with which bmaptool copies
only what is in use, and a bill of materials (p1.spdx.json, SPDX), and for all of
them SHA256SUMS, manifest.json (what went in), ssh_config, known_hosts and inventory.ini (Ansible). The cluster's keys are made on the
first run and kept in identity/ beside the cluster file: back that folder up.`,
		Example: `  hatchery build                   # all of them, into out/
  hatchery build p2                # only that slot
  hatchery build p2 --renew        # with new keys
  hatchery build --layers-only     # only what changes of the base, no images`,
		RunE: func(c *cobra.Command, targets []string) error {
			cluster, err := loadCluster(c.Context(), s.file)
			if err != nil {
				return err
			}
			if options.Renew && len(targets) == 0 {
				return usageError{errors.New("--renew needs the targets that get a new key, e.g. `hatchery build p2 --renew`")}
			}
			options.Targets = targets
			display := s.display(c)
			options.Progress = display
			begun := time.Now()
			defer sparingly()()
			result, err := imagebuilder.Build(c.Context(), cluster, options)
			display.Close()
			if err != nil {
				return err
			}
			if s.json { // with the warnings in it
				return printJSON(c.OutOrStdout(), result)
			}
			printWarnings(c.ErrOrStderr(), result.Warnings)
			printBuild(c.OutOrStdout(), result, time.Since(begun))
			if note := secretsNote(result.Workloads); note != "" {
				fmt.Fprintln(c.OutOrStdout(), note)
			}
			if next := nextStep(cluster, options.Out, result.Targets); next != "" {
				fmt.Fprintln(c.OutOrStdout(), next)
			}
			if options.Renew && !slices.Contains(targets, spec.ControllerName) {
				fmt.Fprintln(c.OutOrStdout(), "The controller refuses the old card as soon as the new one has joined, or at once with `hatchery revoke`. "+
					"Build its image again too, for the day when that is flashed.")
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVarP(&options.Out, "output", "o", "out", "the output folder, beside where you are")
	flags.BoolVar(&options.LayersOnly, "layers-only", false, "write the layers, but no images")
	flags.BoolVar(&options.NoSums, "no-sums", false, "write no SHA256SUMS, which takes reading every image that changed")
	flags.BoolVar(&options.Renew, "renew", false, "give the targets named new keys (SSH host key too) and the next generation")
	baseFlags(flags, &options)
	return c
}

// baseFlags are those of every command that works on the cluster's base
// images.
func baseFlags(flags *pflag.FlagSet, options *imagebuilder.Options) {
	options.Programs = nodePrograms()
	flags.StringVar(&options.Cache, "cache", "", "the cache folder (default: hatchery in the user's cache folder)")
	flags.BoolVar(&options.Offline, "offline", false, "fetch nothing: use what is in the cache and in cluster.lock")
	flags.BoolVar(&options.IgnoreExpiry, "ignore-expiry", false, "take package archives whose signed index says that it is out of date")
	flags.StringVar(&options.AssumeRelease, "assume-release", "",
		"treat a base image of an unknown release as this one ("+strings.Join(release.Known(), ", ")+")")
}

func printBuild(w io.Writer, result *imagebuilder.Result, took time.Duration) {
	fmt.Fprintf(w, "%-10s  %-14s  %-9s  %9s  %9s  %s\n", "TARGET", "HOSTNAME", "STATE", "SIZE", "OWN LAYER", "FILE")
	for _, t := range result.Targets {
		file := t.Image
		if file == "" {
			file = t.Layer
		}
		fmt.Fprintf(w, "%-10s  %-14s  %-9s  %5d MiB  %5d KiB  %s\n", t.Target, t.Hostname, t.State, t.Size>>20, t.LayerBytes>>10, file)
	}
	for _, d := range result.Docker {
		version := ""
		if d.Version != "" {
			version = " " + d.Version
		}
		containers := ""
		if d.Containers > 0 {
			containers = fmt.Sprintf(" and %d container %s", d.Containers, map[bool]string{true: "image", false: "images"}[d.Containers == 1])
		}
		was := "as before"
		if d.Made {
			was = "unpacked now"
		}
		fmt.Fprintf(w, "Docker%s in %s: %d packages%s, %d MiB, %s.\n", version, enumerate(d.Targets), d.Packages, containers, d.LayerBytes>>20, was)
	}
	fmt.Fprintf(w, "Built in %.1f s: layers %.1f s, images %.1f s, checksums %.1f s. What went in is in %s.\n",
		took.Seconds(), result.LayerSeconds, result.ImageSeconds, result.ChecksumSeconds, result.Manifest)
}

// nextStep is what there is to do with what was built; "" where nothing is: cards
// are flashed, and what slots without one boot is pushed.
func nextStep(cluster *spec.Cluster, out string, targets []imagebuilder.TargetResult) string {
	cardless := map[string]bool{}
	for _, t := range cluster.Targets() {
		cardless[t.Name] = t.Cardless()
	}
	var cards []imagebuilder.TargetResult
	var pushed []string
	for _, t := range targets {
		switch {
		case !cardless[t.Target]:
			cards = append(cards, t)
		case t.Image == "" || t.State != imagebuilder.ImageUnchanged:
			pushed = append(pushed, t.Target)
		}
	}
	step := flashStep(cluster, out, cards)
	if len(pushed) == 0 {
		return step
	}
	push := "`" + onTargets("push", cluster, out, pushed) + "` brings what has no card to the controller"
	if step == "" {
		return "Next: " + push + "."
	}
	return step + " With the controller up, " + push + "."
}

// flashStep is what there is to do with the images for cards.
func flashStep(cluster *spec.Cluster, out string, targets []imagebuilder.TargetResult) string {
	var fresh, before []string
	layers := ""
	for _, t := range targets {
		switch {
		case t.Image == "":
			layers = filepath.Dir(t.Layer)
			fresh = append(fresh, t.Target)
		case t.State == imagebuilder.ImageUnchanged:
			before = append(before, t.Target)
		default:
			fresh = append(fresh, t.Target)
		}
	}
	if len(fresh) == 0 {
		return ""
	}
	step := "Next: `" + onTargets("flash", cluster, out, fresh) + "` writes its card."
	if len(fresh) > 1 {
		step = "Next: `" + onTargets("flash", cluster, out, fresh) + "` writes their cards, one after the other."
	}
	if layers != "" {
		return "The layers are in " + layers + "; no image was made. " + step
	}
	switch len(before) {
	case 0:
	case 1:
		step += fmt.Sprintf(" %s is as it was before: flash it too, if you have not yet.", before[0])
	default:
		step += fmt.Sprintf(" %s are as they were before: flash them too, if you have not yet.", enumerate(before))
	}
	return step
}

// enumerate lists words, at least one: a, b and c.
func enumerate(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
