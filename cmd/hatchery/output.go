package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// output is stdout, remembering that it could not be written to: what a
// command prints is its result, and a result that is lost is a failure.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// onTerminal says whether a command's result goes to somebody's screen.
func onTerminal(w io.Writer) bool {
	if o, ok := w.(*output); ok {
		w = o.Writer
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colored says whether a command's result is for somebody's eyes, who has not
// asked for no colours (no-color.org).
func colored(w io.Writer) bool { return onTerminal(w) && os.Getenv("NO_COLOR") == "" }

// printJSON prints a command's result for programs.
func printJSON(w io.Writer, result any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(result)
}

// printWarnings prints them beside the result.
func printWarnings(w io.Writer, warnings []string) {
	for _, warning := range warnings {
		fmt.Fprintln(w, "hatchery: warning:", harmless(warning))
	}
}
