// Package packages finishes at a node's first boot what the builder could not
// do, which runs nothing of the image: the packages that it unpacked are
// configured by the node's own dpkg, and the container images that it laid are
// loaded into Docker.
//
// All it works from lies below /var/lib/hatchery:
//
//	packages/pending     Docker's packages are not configured; its units wait
//	packages/scripts     what dpkg would have run while unpacking, in order, a
//	                     script a line: PACKAGE ARCHITECTURE NAME PATH ARGUMENTS
//	packages/old         those scripts that are no longer dpkg's
//	packages/done        the lines of it that have been run
//	packages/rest        Docker is there; triggers, or another package, are left
//	preload/images.tar   images, removed once Docker has them
//
// There are three steps, in this order: Configure, before Docker is started,
// Load, and Finish. Each sees for itself whether there is something to do. What
// has succeeded is noted on the card, and only then, so that what a power cut
// left half done is finished by the next call; what has failed may be tried
// again.
package packages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"hatchery/internal/atomicfile"
	"hatchery/internal/nodefile"
)

// Options say where the node's files are. The zero value is this system.
type Options struct {
	StateDir string // /var/lib/hatchery if empty
	// Later is the folder of the programs by which packages ask for services to
	// be started, which is done once all are configured:
	// /usr/lib/hatchery/later if empty.
	Later string
	// Calls is where these write what they were asked: /run/hatchery/later if
	// empty.
	Calls string
	// Started are units that whoever calls starts himself: where a package asks
	// for their start, nothing is done.
	Started []string
	Log     *slog.Logger // nil: none; what dpkg and the scripts print, too
	// Tell is told what is being done, for people, whenever that changes; nil:
	// nobody is.
	Tell func(what string)

	root string // the tests': where units are looked for
	step func() // the tests': called before and after each step that leaves a trace
}

func (o Options) withDefaults() Options {
	if o.StateDir == "" {
		o.StateDir = nodefile.StateDir
	}
	if o.Later == "" {
		o.Later = "/usr/lib/hatchery/later"
	}
	if o.Calls == "" {
		o.Calls = nodefile.RunDir + "/later"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	if o.step == nil {
		o.step = func() {}
	}
	return o
}

// state is the path of one of the files that say what is left.
func (o Options) state(name string) string { return filepath.Join(o.StateDir, "packages", name) }

func (o Options) archive() string { return filepath.Join(o.StateDir, "preload", "images.tar") }

// Left is what there is to do.
type Left struct {
	Configure bool // packages wait for Configure; Docker's units are held back
	Load      bool // container images wait for Load
	Finish    bool // triggers, or other packages, wait for Finish
}

// Look says what is left to do.
func Look(o Options) (Left, error) {
	o = o.withDefaults()
	var l Left
	var err error
	if l.Configure, err = there(o.state("pending")); err != nil {
		return Left{}, err
	}
	if !l.Configure {
		// What the packages asked for, when a call was ended before it was done.
		if l.Configure, err = there(o.Calls); err != nil {
			return Left{}, err
		}
	}
	if l.Finish, err = there(o.state("rest")); err != nil {
		return Left{}, err
	}
	if l.Load, err = there(o.archive()); err != nil {
		return Left{}, err
	}
	return l, nil
}

func there(name string) (bool, error) {
	_, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Configure has the packages configured that the builder unpacked, and then
// the services started that they ask for. When it has succeeded, Docker's units
// are no longer held back, and may be started by whoever wants them: that a
// package has asked for them may be lost with the power.
//
// A package that Docker does not depend on may fail; it is left to Finish.
func Configure(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if err := os.MkdirAll(filepath.Dir(o.Calls), 0o755); err != nil {
		return err
	}
	pending, err := there(o.state("pending"))
	if err != nil {
		return err
	}
	if pending {
		if err := o.remember(); err != nil {
			return err
		}
		if err := o.runScripts(ctx); err != nil {
			return fmt.Errorf("%w: no package is configured", err)
		}
		o.Tell("configuring the packages")
		if err := o.configureDocker(ctx); err != nil {
			return err
		}
		if err := o.configured(); err != nil {
			return fmt.Errorf("cannot note that the packages are configured: %w (is the card full, or read-only?)", err)
		}
		o.Log.Info("packages configured")
	}
	return o.makeCalls(ctx)
}

// configured notes that the packages are.
func (o Options) configured() error {
	// The list goes before what says how much of it was done.
	for _, names := range [][]string{{"scripts"}, {"done", "done.new", "old"}} {
		o.step()
		for _, name := range names {
			if err := os.RemoveAll(o.state(name)); err != nil {
				return err
			}
		}
		if err := atomicfile.SyncDir(o.state("")); err != nil {
			return err
		}
	}
	if err := atomicfile.RemoveLeftovers(o.state("")); err != nil {
		return err
	}
	o.step()
	if err := os.Rename(o.state("pending"), o.state("rest")); err != nil {
		return err
	}
	err := atomicfile.SyncDir(o.state(""))
	o.step()
	return err
}

// Finish does what can wait until Docker is up: manual pages, the linker's
// cache, an initramfs, which take minutes on a slow node, and packages that
// could not be configured before.
func Finish(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if rest, err := there(o.state("rest")); err != nil || !rest {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.Calls), 0o755); err != nil {
		return err
	}
	if err := o.remember(); err != nil {
		return err
	}
	o.Tell("running the packages' triggers")
	if err := o.dpkg(ctx, "--configure", "--pending"); err != nil {
		return fmt.Errorf("a package is not configured (dpkg --audit names it): %w", err)
	}
	if err := o.makeCalls(ctx); err != nil {
		return err
	}
	o.step()
	if err := os.Remove(o.state("rest")); err != nil {
		return err
	}
	err := atomicfile.SyncDir(o.state(""))
	o.step()
	return err
}

// supported says where dpkg is.
func supported() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("packages are configured on nodes, which run Linux: %w", errors.ErrUnsupported)
	}
	return nil
}
