package nbd_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
	"hatchery/netboot/nbd"
)

// TestMain: with HATCHERY_NBD_SERVE the test binary is a server of one export,
// for .ci/bench-nbd.
func TestMain(m *testing.M) {
	if os.Getenv("HATCHERY_NBD_SERVE") == "" {
		os.Exit(m.Run())
	}
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := flags.String("listen", "", "unix:PATH or tcp:ADDRESS:PORT")
	chain := flags.Bool("chain", false, "serve through a chain of three layers over the file; what is written is not kept")
	shared := flags.Bool("shared", false, "let several connections write")
	readOnly := flags.Bool("read-only", false, "")
	profile := flags.String("profile", "", "write a CPU profile")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	device, done, err := openDevice(flags.Arg(0), *chain)
	if err != nil {
		return err
	}
	defer done()
	network, address, ok := strings.Cut(*listen, ":")
	if !ok {
		return errors.New("-listen is missing")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	s := &nbd.Server{
		Exports: exports{"disk": {Name: "disk", Device: device, Shared: *shared, ReadOnly: *readOnly}},
		Log:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	return s.Serve(ctx, l)
}

// exports serves what it holds to everybody; "" is the default.
type exports map[string]*nbd.Export

func (e exports) Open(_ context.Context, _ nbd.Peer, name string) (*nbd.Export, error) {
	if export := e[name]; export != nil {
		return export, nil
	}
	return nil, nbd.ErrUnknownExport
}

func (e exports) List(context.Context, nbd.Peer) ([]string, error) {
	var names []string
	for _, export := range e {
		names = append(names, export.Name)
	}
	return names, nil
}

// A fileDevice is a plain file.
type fileDevice struct {
	*os.File
	size int64
}

func (f fileDevice) Size() int64              { return f.size }
func (f fileDevice) Flush() error             { return f.Sync() }
func (f fileDevice) Discard(_, _ int64) error { return errors.ErrUnsupported }

// openDevice opens a file, or makes a chain over it: two sealed layers, each
// with some blocks of its own, and a writable one.
func openDevice(path string, chain bool) (nbd.Device, func(), error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !chain {
		return fileDevice{f, info.Size()}, func() { f.Close() }, nil
	}
	base, err := layer.OpenBase(path, digest.FromString(path))
	if err != nil {
		return nil, nil, err
	}
	var (
		parent layer.Parent = base
		top    *layer.Layer
		layers []*layer.Layer
	)
	for i := range 3 {
		if top, err = layer.Create(fmt.Sprintf("%s.layer%d", path, i), parent, info.Size()); err != nil {
			return nil, nil, err
		}
		layers = append(layers, top)
		// A megabyte in each 16 is changed.
		p := make([]byte, 1<<20)
		for off := int64(i) << 22; off+int64(len(p)) <= info.Size(); off += 16 << 20 {
			for k := range p {
				p[k] = byte(k>>8) ^ byte(off>>20) ^ byte(i+1)
			}
			if _, err := top.WriteAt(p, off); err != nil {
				return nil, nil, err
			}
		}
		if i < 2 {
			if _, err := top.Seal(); err != nil {
				return nil, nil, err
			}
			parent = top
		}
	}
	return top, func() {
		for _, l := range layers {
			l.Abandon()
			os.Remove(l.Path())
		}
		base.Close()
	}, nil
}
