package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/baseimage"
	"hatchery/imagebuilder/clusterlock"
	"hatchery/imagebuilder/drive"
	"hatchery/imagebuilder/flash"
	"hatchery/imagebuilder/imagefile"
	"hatchery/internal/download"
	"hatchery/internal/enrol"
	"hatchery/internal/spec"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage, an invalid cluster file, an unusable input
)

func exitCode(err error) int {
	var (
		usage   usageError
		config  *spec.Errors
		unknown *spec.UnknownTargetError
		input   *imagebuilder.InputError
		base    *baseimage.InputError
		lock    *clusterlock.InputError
		fetched *download.InputError
		disk    *drive.InputError
		refusal *drive.RefusedError
		small   *flash.TooSmallError
		image   *imagefile.InputError
	)
	for _, mistake := range []any{&usage, &config, &unknown, &input, &base, &lock, &fetched, &disk, &refusal, &small, &image} {
		if errors.As(err, mistake) {
			return exitUsage
		}
	}
	var code exitError
	if errors.As(err, &code) {
		return int(code)
	}
	if errors.Is(err, flash.ErrChecksum) { // a damaged image
		return exitUsage
	}
	var refused *enrol.Error
	if errors.As(err, &refused) && refused.Code == enrol.UnknownSlot {
		return exitUsage
	}
	return exitFailed
}

// errReported is the error of a command that already said what is wrong.
var errReported = errors.New("already reported")

// exitError is the exit code of a command that ran in this one's place, and
// said what was wrong.
type exitError int

func (e exitError) Error() string { return "already reported" }

func (e exitError) Is(target error) bool { return target == errReported }

// usageError is a wrong call.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// printError says what went wrong. The mistakes of a cluster file begin with
// their place, FILE:LINE:COLUMN, so that editors find it.
func printError(w io.Writer, err error) {
	var mistakes *spec.Errors
	switch {
	case errors.Is(err, errReported):
	case errors.As(err, &mistakes):
		fmt.Fprintln(w, harmless(mistakes.Error()))
	default:
		fmt.Fprintln(w, "hatchery:", harmless(err.Error()))
	}
}

// harmless keeps what a base image or a server put into a message from
// commanding the terminal: whatever cannot be printed is escaped, line breaks
// and tabs apart.
func harmless(message string) string {
	var b strings.Builder
	for i, r := range message {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(message[i:], string(r)): // a byte that is no UTF-8
			fmt.Fprintf(&b, `\x%02x`, message[i])
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// printErrorJSON is printError for programs: one more of the JSON objects
// that progress consists of.
func printErrorJSON(w io.Writer, err error) {
	if errors.Is(err, errReported) {
		return
	}
	var mistakes *spec.Errors
	errors.As(err, &mistakes)
	json.NewEncoder(w).Encode(struct {
		Event    string    `json:"event"`
		Message  string    `json:"message"`
		ExitCode int       `json:"exit_code"`
		Problems []problem `json:"problems"`
	}{"error", err.Error(), exitCode(err), problemsOf(mistakes)})
}

// problem is one mistake in a cluster file, as JSON has it.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Path    string `json:"path"`
	Message string `json:"message"`
}

// problemsOf never gives nil, so that programs always find a list.
func problemsOf(mistakes *spec.Errors) []problem {
	if mistakes == nil {
		return []problem{}
	}
	return problems(mistakes.Problems)
}

func problems(all []spec.Problem) []problem {
	list := []problem{}
	for _, p := range all {
		list = append(list, problem{p.File, p.Line, p.Column, p.Path, p.Message})
	}
	return list
}
