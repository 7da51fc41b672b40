package console

import (
	"errors"
	"io"
)

// ErrDetached says that the person who types wants to leave.
var ErrDetached = errors.New("detached")

// An Escape passes on what a person types, but for what is meant for the program
// itself: at the beginning of a line, ~. leaves, ~? asks for help, and ~~ is one
// ~, as ssh(1) has it.
type Escape struct {
	w     io.Writer
	help  func()
	fresh bool // at the beginning of a line
	tilde bool // one is held back
}

// NewEscape passes on to w. What ~? asks for, help shows.
func NewEscape(w io.Writer, help func()) *Escape { return &Escape{w: w, help: help, fresh: true} }

// Write passes on. It gives ErrDetached after ~. was typed; what follows that is
// dropped.
func (e *Escape) Write(typed []byte) (int, error) {
	out := make([]byte, 0, len(typed)+1)
	var end error
	for _, b := range typed {
		if e.tilde {
			e.tilde = false
			switch b {
			case '.':
				end = ErrDetached
			case '?':
				e.help()
				continue
			case '~':
			default:
				out = append(out, '~')
			}
			if end != nil {
				break
			}
		} else if b == '~' && e.fresh {
			e.tilde, e.fresh = true, false
			continue
		}
		out = append(out, b)
		e.fresh = b == '\r' || b == '\n'
	}
	if len(out) > 0 {
		if _, err := e.w.Write(out); err != nil {
			return 0, err
		}
	}
	return len(typed), end
}
