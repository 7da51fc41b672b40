package drive

import "context"

// ParsePlist, ParseDisks are the parsers of what macOS and Windows say.
var (
	ParsePlist = parsePlist
	ParseDisks = parseDisks
	Shown      = shown
	Printable  = printable
)

// MacList and its like are what macOS and Windows show, by recorded outputs.
func MacList(ctx context.Context, run func(context.Context, string, ...string) ([]byte, error)) ([]Drive, error) {
	return diskutil{run}.list(ctx)
}

func MacNamed(ctx context.Context, run func(context.Context, string, ...string) ([]byte, error), path, name string) (Drive, error) {
	return diskutil{run}.named(ctx, path, name)
}

func MacAttached(ctx context.Context, run func(context.Context, string, ...string) ([]byte, error), file string) ([]string, error) {
	return diskutil{run}.attached(ctx, file)
}

func WindowsList(ctx context.Context, run func(context.Context, string, ...string) ([]byte, error)) ([]Drive, error) {
	return powershell{run}.list(ctx)
}

func WindowsNamed(ctx context.Context, run func(context.Context, string, ...string) ([]byte, error), path string) (Drive, bool, error) {
	return powershell{run}.named(ctx, path)
}

// A TestDevice is a device whose transfers are functions of a test's.
type TestDevice struct {
	Length  int64
	Block   int
	Read    func(p []byte, off int64) (int, error)
	Write   func(p []byte, off int64) (int, error)
	Ended   func()
	Discard func(off, n int64) error
}

func (d TestDevice) geometry() (int64, int, error)            { return d.Length, d.Block, nil }
func (d TestDevice) readAt(p []byte, off int64) (int, error)  { return d.Read(p, off) }
func (d TestDevice) writeAt(p []byte, off int64) (int, error) { return d.Write(p, off) }
func (d TestDevice) sync() error                              { return nil }
func (d TestDevice) discard(off, n int64) error               { return d.Discard(off, n) }
func (d TestDevice) rescan() error                            { return nil }
func (d TestDevice) close() error                             { d.Ended(); return nil }

func NewHandle(d Drive, dev TestDevice) (*Handle, error) { return newHandle(d, dev) }
