//go:build linux || darwin

package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The two speak in lines of JSON, of at most longest bytes each: the opener
// says hello, the other asks for a drive, the opener answers, and with it goes
// the open file (unix(7), SCM_RIGHTS). From then on "rescan" may be asked for.
type (
	hello struct {
		Opener int `json:"hatchery_opener"` // version of this protocol
	}
	request struct {
		Drive  *Drive `json:"drive,omitempty"`
		Force  bool   `json:"force,omitempty"`
		Rescan bool   `json:"rescan,omitempty"`
	}
	answer struct {
		Drive *Drive   `json:"drive,omitempty"` // as it was opened
		Fault *problem `json:"fault,omitempty"`
	}
	// problem is an error by its type.
	problem struct {
		Input       *InputError      `json:"input,omitempty"`
		Permission  *PermissionError `json:"permission,omitempty"`
		Changed     *ChangedError    `json:"changed,omitempty"`
		Refused     *RefusedError    `json:"refused,omitempty"`
		Busy        *BusyError       `json:"busy,omitempty"`
		Unsupported bool             `json:"unsupported,omitempty"`
		Text        string           `json:"text,omitempty"`
	}
)

const (
	protocol = 1
	longest  = 1 << 20
	// answerWithin is how long either side waits for what the other one does
	// by itself. Unmounting writes out what a slow card has not got yet.
	answerWithin = 5 * time.Minute
	askWithin    = 30 * time.Second
	endWithin    = 5 * time.Second
)

func asProblem(err error) *problem {
	var p problem
	switch {
	case errors.As(err, &p.Input), errors.As(err, &p.Permission), errors.As(err, &p.Changed), errors.As(err, &p.Refused), errors.As(err, &p.Busy):
	case errors.Is(err, errors.ErrUnsupported):
		p.Unsupported = true
		fallthrough
	default:
		p.Text = err.Error()
	}
	return &p
}

func (p *problem) err() error {
	switch {
	case p == nil:
		return nil
	case p.Input != nil:
		return p.Input
	case p.Permission != nil:
		return p.Permission
	case p.Changed != nil:
		return p.Changed
	case p.Refused != nil:
		return p.Refused
	case p.Busy != nil:
		return p.Busy
	case p.Unsupported:
		return fmt.Errorf("%s: %w", printable(p.Text), errors.ErrUnsupported)
	}
	return errors.New(printable(p.Text))
}

// A wire is one side of the socket.
type wire struct {
	conn *net.UnixConn
	rest []byte // read, and not yet a whole line
}

func newWire(socket *os.File) (*wire, error) {
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok || unixConn.LocalAddr().Network() != "unix" {
		conn.Close()
		return nil, errors.New("it is a socket of another kind")
	}
	return &wire{conn: unixConn}, nil
}

func (w *wire) write(message any, fds ...int) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if len(line) > longest {
		return errors.New("a message is too long")
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for len(line) > 0 {
		n, _, err := w.conn.WriteMsgUnix(line, rights, nil)
		if err != nil {
			return err
		}
		line, rights = line[n:], nil
	}
	return nil
}

// read reads a message, and the file descriptor that came with it, -1 if none
// did. Several are too many; they are closed then.
func (w *wire) read(message any) (fd int, err error) {
	fd = -1
	fail := func(err error) (int, error) {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, err
	}
	piece, rights := make([]byte, 16<<10), make([]byte, unix.CmsgSpace(4*4))
	for {
		if end := bytes.IndexByte(w.rest, '\n'); end >= 0 {
			line := w.rest[:end]
			w.rest = w.rest[end+1:]
			if err := json.Unmarshal(line, message); err != nil {
				return fail(fmt.Errorf("a message is not understood: %w", err))
			}
			return fd, nil
		}
		if len(w.rest) > longest {
			return fail(errors.New("a message is too long"))
		}
		n, oobn, flags, _, err := w.conn.ReadMsgUnix(piece, rights)
		got, bad := received(rights[:max(0, oobn)])
		for _, one := range got {
			if fd < 0 {
				fd = one
				continue
			}
			unix.Close(one)
			bad = errors.New("several files came with a message")
		}
		switch {
		case errors.Is(err, io.EOF):
			return fail(io.ErrUnexpectedEOF)
		case err != nil:
			return fail(err)
		case bad != nil:
			return fail(bad)
		case flags&unix.MSG_CTRUNC != 0:
			return fail(errors.New("several files came with a message"))
		case n == 0:
			return fail(io.ErrUnexpectedEOF)
		}
		w.rest = append(w.rest, piece[:n]...)
	}
}

// received gives the file descriptors of a message's control data.
func received(rights []byte) (fds []int, err error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("what came with a message is not understood: %w", err)
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		some, parseErr := unix.ParseUnixRights(&m)
		if parseErr != nil {
			err = fmt.Errorf("what came with a message is not understood: %w", parseErr)
			continue
		}
		fds = append(fds, some...)
	}
	return fds, err
}

func within(d time.Duration) time.Time { return time.Now().Add(d) }

func openThrough(ctx context.Context, command []string, d Drive, o OpenOptions) (*Handle, error) {
	if len(command) == 0 {
		return nil, errors.New("no command is given that opens the card")
	}
	if d.Kind == File {
		return nil, &InputError{Path: d.Path, Problem: fmt.Sprintf("%s is a file that this user may not write to: only disks are opened with another's rights", shown(d.Path))}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("cannot make a socket for the program that opens the card: %w", err)
	}
	defer theirs.Close()
	w, err := newWire(ours)
	ours.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot use a socket for the program that opens the card: %w", err)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		w.conn.Close()
		return nil, fmt.Errorf("cannot start the program that opens the card: %w", err)
	}
	theirs.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	opener := &opener{wire: w, cmd: cmd, ended: ended}
	dev, now, err := opener.ask(ctx, d, o)
	if err != nil {
		exit := opener.end()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if exit != nil && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)) {
			return nil, fmt.Errorf("%s did not open the card: %w", strings.Join(command, " "), exit)
		}
		return nil, err
	}
	return newHandle(now, &handed{device: dev, opener: opener})
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := socketpair()
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "opener"), os.NewFile(uintptr(fds[1]), "opener's"), nil
}

// An opener is the privileged process, seen from this one.
type opener struct {
	mu    sync.Mutex
	wire  *wire
	cmd   *exec.Cmd
	ended chan error
}

// ask has the opener open a drive. What it hands over is looked at again: it has
// to be the drive that was asked for.
func (o *opener) ask(ctx context.Context, d Drive, options OpenOptions) (device, Drive, error) {
	stop := context.AfterFunc(ctx, func() { o.wire.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	fail := func(err error) (device, Drive, error) { return nil, Drive{}, err }
	var first hello
	if fd, err := o.wire.read(&first); err != nil {
		return fail(fmt.Errorf("the program that opens the card did not answer: %w", err))
	} else if fd >= 0 || first.Opener != protocol {
		if fd >= 0 {
			unix.Close(fd)
		}
		return fail(errors.New("the program that opens the card is another version's: install one hatchery"))
	}
	if ctx.Err() == nil {
		o.wire.conn.SetDeadline(within(answerWithin))
	}
	if ctx.Err() != nil {
		return fail(ctx.Err())
	}
	if err := o.wire.write(request{Drive: &d, Force: options.Force}); err != nil {
		return fail(fmt.Errorf("cannot ask the program that opens the card: %w", err))
	}
	var a answer
	fd, err := o.wire.read(&a)
	if err != nil {
		return fail(fmt.Errorf("the program that opens the card did not answer: %w", err))
	}
	switch {
	case a.Fault != nil:
		err = a.Fault.err()
	case fd < 0 || a.Drive == nil:
		err = errors.New("the program that opens the card did not hand it over")
	default:
		err = same(d, *a.Drive)
	}
	var n *node
	if err == nil {
		n, err = adopt(*a.Drive, fd)
	}
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return fail(err)
	}
	o.wire.conn.SetDeadline(time.Time{})
	return n, *a.Drive, nil
}

// end closes the socket, by which the opener ends.
func (o *opener) end() error {
	o.wire.conn.Close()
	select {
	case err := <-o.ended:
		return err
	case <-time.After(endWithin):
	}
	// It is another user's where it is privileged: then it is left to itself.
	if o.cmd.Process.Kill() == nil {
		return <-o.ended
	}
	return nil
}

// handed is a device that an opener has handed over.
type handed struct {
	device
	opener *opener
}

func (h *handed) rescan() error {
	h.opener.mu.Lock()
	defer h.opener.mu.Unlock()
	conn := h.opener.wire.conn
	conn.SetDeadline(within(askWithin))
	defer conn.SetDeadline(time.Time{})
	if err := h.opener.wire.write(request{Rescan: true}); err != nil {
		return fmt.Errorf("the program that opened the card is gone: %w", err)
	}
	var a answer
	fd, err := h.opener.wire.read(&a)
	if fd >= 0 {
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("the program that opened the card is gone: %w", err)
	}
	return a.Fault.err()
}

func (h *handed) close() error {
	err := h.device.close()
	// How it ended is of no more use: the card is closed.
	_ = h.opener.end()
	return err
}

func serveOpener(ctx context.Context, socket *os.File) error {
	w, err := newWire(socket)
	if err != nil {
		return fmt.Errorf("this opens a card for `hatchery flash`, which starts it with a socket as standard input (sudo does not pass it on where it logs input): %w", err)
	}
	defer w.conn.Close()
	stop := context.AfterFunc(ctx, func() { w.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	limit := func(deadline time.Time) {
		if ctx.Err() == nil {
			w.conn.SetDeadline(deadline)
		}
		if ctx.Err() != nil {
			w.conn.SetDeadline(time.Unix(1, 0))
		}
	}
	limit(within(askWithin))
	if err := w.write(hello{Opener: protocol}); err != nil {
		return fmt.Errorf("cannot speak to `hatchery flash`: %w", err)
	}
	ask := func() (request, error) {
		var r request
		fd, err := w.read(&r)
		if fd >= 0 {
			unix.Close(fd)
			if err == nil {
				err = errors.New("a file came with a message")
			}
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return r, err
	}
	first, err := ask()
	if err != nil {
		return fmt.Errorf("`hatchery flash` asks for no drive: %w", err)
	}
	// While it is opened, the other one may go away: then this ends by writing
	// to nobody.
	limit(within(answerWithin))
	h, err := serveOpen(ctx, first)
	if err != nil {
		if w.write(answer{Fault: asProblem(err)}) == nil {
			return nil // the other one says it
		}
		return err
	}
	defer h.Close()
	n, ok := h.dev.(*node)
	if !ok {
		return fmt.Errorf("%s was not opened as a file", h.drive.Path)
	}
	if err := w.write(answer{Drive: &h.drive}, n.fd); err != nil {
		return fmt.Errorf("cannot hand %s over: %w", h.drive.Path, err)
	}
	for {
		limit(time.Time{})
		next, err := ask()
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET):
			return nil // the handle was closed
		case err != nil:
			return fmt.Errorf("`hatchery flash` asks for what is not known: %w", err)
		case !next.Rescan || next.Drive != nil:
			return errors.New("`hatchery flash` asks for what is not known")
		}
		var a answer
		if err := h.Rescan(); err != nil {
			a.Fault = asProblem(err)
		}
		limit(within(askWithin))
		if err := w.write(a); err != nil {
			return fmt.Errorf("cannot answer `hatchery flash`: %w", err)
		}
	}
}

// serveOpen opens what was asked for, if it is a disk.
func serveOpen(ctx context.Context, r request) (*Handle, error) {
	if r.Drive == nil || r.Rescan {
		return nil, errors.New("`hatchery flash` asks for no drive")
	}
	if r.Drive.Kind != Disk && r.Drive.Kind != Loop {
		return nil, &InputError{Path: r.Drive.Path, Problem: fmt.Sprintf("%s is not opened: only disks are", shown(r.Drive.Path))}
	}
	// Open looks by itself, and refuses where it finds anything else than that.
	return Open(ctx, *r.Drive, OpenOptions{Force: r.Force})
}
