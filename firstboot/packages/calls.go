package packages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// makeCalls starts what the packages have asked to be started, after a single
// daemon-reload, if there is anything new for systemd to read. A service that
// does not start is its own problem, and told.
func (o Options) makeCalls(ctx context.Context) error {
	text, err := os.ReadFile(o.Calls)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	o.Tell("starting the packages' services")
	if err := o.reload(ctx); err != nil {
		o.Log.Warn("systemd does not read its units again", "error", err)
	}
	for _, call := range parseCalls(text) {
		if call = o.without(call); call == nil {
			continue
		}
		if err := o.run(ctx, nil, call[0], call[1:]...); err != nil {
			if ctx.Err() != nil {
				return err
			}
			o.Log.Warn("a service that a package wants is not started", "call", strings.Join(call, " "), "error", err)
		}
	}
	if err := os.Remove(o.Calls); err != nil {
		return fmt.Errorf("cannot note that services are started: %w", err)
	}
	return nil
}

// without gives a call less the units that somebody else starts; nil if that
// is all it asks for.
func (o Options) without(call []string) []string {
	if len(call) < 3 || call[0] != "deb-systemd-invoke" || call[1] != "start" {
		return call
	}
	units := slices.DeleteFunc(slices.Clone(call[2:]), func(unit string) bool { return slices.Contains(o.Started, unit) })
	if len(units) == 0 {
		return nil
	}
	return append(call[:2:2], units...)
}

// parseCalls reads what the programs in Options.Later have written, a call a
// line. One that was made twice is made once.
func parseCalls(text []byte) [][]string {
	var calls [][]string
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if key := strings.Join(words, " "); key != "" && !seen[key] {
			seen[key] = true
			calls = append(calls, words)
		}
	}
	return calls
}
