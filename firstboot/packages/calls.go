package packages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// makeCalls starts what the packages have asked to be started, after a single
// daemon-reload. A service that does not start is its own problem, and told.
func (o Options) makeCalls(ctx context.Context) error {
	text, err := os.ReadFile(o.Calls)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	o.Tell("starting the packages' services")
	if err := o.run(ctx, nil, "systemctl", "daemon-reload"); err != nil {
		o.Log.Warn("systemd does not read its units again", "error", err)
	}
	for _, call := range parseCalls(text) {
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
