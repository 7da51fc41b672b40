//go:build darwin || windows

package drive

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
)

func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, printable(string(exit.Stderr)))
	case err != nil:
		return nil, err
	}
	return out, nil
}
