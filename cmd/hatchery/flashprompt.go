package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// A prompt asks the one at the terminal.
type prompt struct {
	in  io.Reader
	out io.Writer
	// flush throws away what was typed before there was a question.
	flush func()
}

// tell shows what belongs to a question, whether progress is wanted or not.
func (p *prompt) tell(format string, values ...any) { printLine(p.out, format, values...) }

// stdinPrompt asks whoever sits at the terminal of a command; it is nil where
// nobody does.
func stdinPrompt(c *cobra.Command) *prompt {
	in, ok := c.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil
	}
	return &prompt{in: in, out: c.ErrOrStderr(), flush: func() { flushInput(in) }}
}

// line asks a question and gives the answer in lower case, without spaces
// around it. Nothing is read but that line, and only when there is a question: sudo asks at the
// same terminal.
func (p *prompt) line(ctx context.Context, question string) (string, error) {
	p.flush()
	fmt.Fprint(p.out, harmless(question)+" ")
	type answer struct {
		text string
		err  error
	}
	given := make(chan answer, 1)
	go func() {
		var text strings.Builder
		var c [1]byte
		for {
			n, err := p.in.Read(c[:])
			if n > 0 && c[0] == '\n' {
				err = nil
			}
			if n > 0 && c[0] != '\n' && text.Len() < 1<<10 {
				text.WriteByte(c[0])
			}
			if err != nil || n > 0 && c[0] == '\n' {
				given <- answer{strings.ToLower(strings.TrimSpace(text.String())), err}
				return
			}
		}
	}()
	select {
	case a := <-given:
		if errors.Is(a.err, io.EOF) && a.text == "" {
			fmt.Fprintln(p.out)
			return "", errors.New("the question was not answered: nothing was written")
		}
		return a.text, nil
	case <-ctx.Done():
		fmt.Fprintln(p.out)
		return "", ctx.Err()
	}
}
