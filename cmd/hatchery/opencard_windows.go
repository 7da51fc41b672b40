package main

import (
	"context"
	"errors"
	"os"
)

// asUser does nothing here: there is no sudo.
func asUser(context.Context) (code int, done bool, err error) { return 0, false, nil }

func relay(string, *os.File) error { return errors.ErrUnsupported }
