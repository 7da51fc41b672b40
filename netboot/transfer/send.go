package transfer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/hearsay"
	"hatchery/internal/layer"
	"hatchery/internal/progress"
	"hatchery/internal/sparse"
	"hatchery/netboot/store"
)

// A Source is a file that an object lies in: a raw image, or a sealed layer.
type Source struct {
	Kind   store.Kind
	Digest digest.Digest
	Path   string
}

// An Offer is what is pushed. Objects that the store has may be left out.
type Offer struct {
	// By says who pushes: user@host.
	By      string
	Objects []Source // a layer after what it lies on
	Slots   []Assignment
	// Reporter is told what is sent and what the controller does; may be nil.
	Reporter progress.Reporter
}

// Send pushes an offer over rw, at whose other end [Receive] runs. After an
// error, rw must be closed, which ends what still waits for it; another Send
// goes on where this one ended.
func Send(ctx context.Context, rw io.ReadWriter, o Offer) (*Result, error) {
	if o.Reporter == nil {
		o.Reporter = progress.Discard
	}
	s := &sender{o: o}
	defer s.close()
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("cannot push: %w", err)
	}
	r := bufio.NewReaderSize(rw, 64<<10)
	if err := greet(ctx, r, rw); err != nil {
		return nil, fmt.Errorf("cannot push: %w", err)
	}
	s.c = newConn(r, rw, nil)
	result, err := s.push(ctx)
	s.c.close(err)
	if err != nil {
		return nil, fmt.Errorf("cannot push: %w", err)
	}
	return result, nil
}

func greet(ctx context.Context, r *bufio.Reader, w io.Writer) error {
	said, err := within(ctx, func() (string, error) {
		if _, err := fmt.Fprintf(w, "%s%d-%d\n", pushPrefix, version, version); err != nil {
			return "", err
		}
		return readLine(r, receivePrefix, maxGreeting)
	})
	if err != nil {
		return err
	}
	if said != strconv.Itoa(version) {
		return fmt.Errorf("the controller's hatchery speaks another version of this protocol (%s, here: %d): use one release on both sides",
			hearsay.Line(strings.TrimPrefix(said, "none "), 40), version)
	}
	return nil
}

type sender struct {
	o     Offer
	c     *conn
	offer offer
	files []*os.File
	tasks map[int]progress.Task // the controller's
}

func (s *sender) close() {
	for _, f := range s.files {
		f.Close()
	}
	for _, t := range s.tasks {
		t.End(errors.New("the connection ended"))
	}
}

// prepare opens the files, and looks whether they are what they are said to
// be before anything is sent.
func (s *sender) prepare() error {
	s.offer = offer{By: s.o.By, Slots: s.o.Slots}
	parents := map[digest.Digest]digest.Digest{}
	for _, source := range s.o.Objects {
		f, err := os.Open(source.Path)
		if err != nil {
			return err
		}
		s.files = append(s.files, f)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", source.Path)
		}
		object := store.Object{Kind: source.Kind, Digest: source.Digest, Size: info.Size()}
		for seg, err := range sparse.Segments(f, 0, object.Size) {
			if err != nil {
				return err
			}
			object.Stored += seg.Length
		}
		if source.Kind == store.Layer {
			h, err := layer.ReadHeader(source.Path)
			if err != nil {
				return err
			}
			if !h.Sealed || h.Digest != source.Digest {
				return fmt.Errorf("%s is not the sealed layer %s", source.Path, source.Digest)
			}
			parents[source.Digest] = h.Parent
		}
		s.offer.Objects = append(s.offer.Objects, object)
	}
	for _, a := range s.o.Slots {
		below := a.Base
		for _, d := range a.Layers {
			if parent, ok := parents[d]; ok && parent != below {
				return fmt.Errorf("what p%d shall boot does not fit together: %w", a.Slot, &layer.WrongParentError{Path: "layer " + string(d), Want: parent, Got: below})
			}
			below = d
		}
	}
	return s.offer.check()
}

func (s *sender) push(ctx context.Context) (*Result, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f, err := message(frameOffer, s.offer)
	if err != nil {
		return nil, err
	}
	if err := s.c.send(ctx, f); err != nil {
		return nil, err
	}
	f, err = s.receive(ctx, frameWant)
	if err != nil {
		return nil, err
	}
	var w wanted
	if err := f.into(&w); err != nil {
		return nil, err
	}
	if err := s.check(w); err != nil {
		return nil, err
	}
	// Data goes out beside what the controller tells meanwhile.
	var sent counts
	var sending sync.WaitGroup
	failed := make(chan error, 1)
	sending.Go(func() {
		if err := s.data(ctx, w, &sent); err != nil && s.c.why() == nil {
			failed <- err
			stop()
		}
	})
	f, err = s.receive(ctx, frameResult)
	stop()
	if err != nil && errors.Is(err, context.Canceled) {
		select {
		case err = <-failed:
		default:
		}
	}
	if err != nil {
		return nil, err // what still sends ends with ctx
	}
	sending.Wait()
	var result Result
	if err := f.into(&result); err != nil {
		return nil, err
	}
	result.Sent, result.Data = sent.sent, sent.data
	return &result, nil
}

func (s *sender) check(w wanted) error {
	last := -1
	for _, o := range w.Objects {
		if o.Object <= last || o.Object >= len(s.offer.Objects) || o.Offset < 0 || o.Offset > s.offer.Objects[o.Object].Size {
			return fmt.Errorf("the controller asks for what was not offered (%d from byte %d)", o.Object, o.Offset)
		}
		last = o.Object
	}
	return nil
}

// receive waits for a frame, and shows meanwhile what the controller does.
func (s *sender) receive(ctx context.Context, kind frameType) (*frame, error) {
	for {
		f, err := s.c.receive(ctx)
		if err != nil {
			return nil, err
		}
		switch f.kind {
		case kind:
			return f, nil
		case frameTaskBegin, frameTaskAdd, frameTaskEnd:
			if err := s.show(f); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the controller sent a frame of type %d where one of type %d belongs", f.kind, kind)
		}
	}
}

// taskMessage is what the controller tells of its work.
type taskMessage struct {
	ID    int    `json:"id"`
	Name  string `json:"name,omitempty"`
	Total int64  `json:"total,omitempty"`
	Done  int64  `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// maxTasks is how many pieces of work the controller may have under way.
const maxTasks = 64

func (s *sender) show(f *frame) error {
	var m taskMessage
	if err := json.Unmarshal(f.payload, &m); err != nil {
		return err
	}
	task := s.tasks[m.ID]
	switch {
	case f.kind == frameTaskBegin && task == nil:
		if len(s.tasks) >= maxTasks {
			return errors.New("the controller does more at once than can be shown")
		}
		if s.tasks == nil {
			s.tasks = map[int]progress.Task{}
		}
		s.tasks[m.ID] = s.o.Reporter.Begin("controller: "+hearsay.Line(m.Name, 200), max(m.Total, -1))
	case f.kind == frameTaskAdd && task != nil:
		task.Add(max(m.Done, 0))
	case f.kind == frameTaskEnd && task != nil:
		var err error
		if m.Error != "" {
			err = errors.New(hearsay.Line(m.Error, 400))
		}
		task.End(err)
		delete(s.tasks, m.ID)
	}
	return nil
}

// counts are bytes of data, on the connection and before compression.
type counts struct{ sent, data int64 }

// A piece is data on its way: read, being compressed.
type piece struct {
	f     *frame
	ready chan struct{}
	last  progress.Task // to be ended after it
	task  progress.Task
	span  int64 // how much of the file is dealt with
}

// data sends what is wanted.
func (s *sender) data(ctx context.Context, w wanted, sent *counts) error {
	workers := min(runtime.GOMAXPROCS(0), 4)
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(workers), zstd.WithWindowSize(maxData), zstd.WithEncoderCRC(false))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pieces := make(chan *piece, 2*workers)
	var busy sync.WaitGroup
	defer func() { stop(); busy.Wait() }()
	slots := make(chan struct{}, workers)
	read := make(chan error, 1)
	put := func(p *piece) error {
		select {
		case pieces <- p:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	busy.Go(func() {
		defer close(pieces)
		read <- s.read(ctx, w, func(p *piece) error {
			p.ready = make(chan struct{})
			if p.f == nil || p.f.kind != frameData {
				close(p.ready)
				return put(p)
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			busy.Go(func() {
				defer close(p.ready)
				compress(encoder, p.f)
				<-slots
			})
			return put(p)
		})
	})
	for p := range pieces {
		<-p.ready
		if p.f != nil {
			if p.f.kind == frameData {
				sent.data += int64(p.f.length)
				sent.sent += int64(len(p.f.payload))
			}
			if err := s.c.send(ctx, p.f); err != nil {
				if p.last != nil {
					p.last.End(err)
				}
				return err
			}
		}
		if p.task != nil {
			p.task.Add(p.span)
		}
		if p.last != nil {
			p.last.End(nil)
		}
	}
	return <-read
}

// compress makes a data frame smaller where that pays.
func compress(encoder *zstd.Encoder, f *frame) {
	small := encoder.EncodeAll(f.payload, make([]byte, 0, len(f.payload)*7/8))
	if len(small) < len(f.payload)*7/8 {
		f.payload, f.flags = small, flagZstd
	}
}

// read reads what is wanted of the files, in order.
func (s *sender) read(ctx context.Context, w wanted, put func(*piece) error) error {
	for _, want := range w.Objects {
		object, file := s.offer.Objects[want.Object], s.files[want.Object]
		var total int64
		var segments []sparse.Segment
		for seg, err := range sparse.Segments(file, want.Offset, object.Size) {
			if err != nil {
				return err
			}
			segments = append(segments, seg)
			total += seg.Length
		}
		name := "send " + string(object.Kind) + " " + object.Digest.Encoded()[:12]
		task := s.o.Reporter.Begin(name, total)
		err := func() error {
			for _, seg := range segments {
				if err := s.segment(ctx, want.Object, file, seg, task, put); err != nil {
					return fmt.Errorf("cannot send %s: %w", object, err)
				}
			}
			return put(&piece{f: &frame{kind: frameEnd, object: uint16(want.Object), offset: object.Size}, last: task})
		}()
		if err != nil {
			task.End(err)
			return err
		}
	}
	return nil
}

// skipped is from which length on a run of zeros is not sent; shorter ones
// vanish in compression, and do not break up what is around them.
const skipped = 32 << 10

func (s *sender) segment(ctx context.Context, object int, file *os.File, seg sparse.Segment, task progress.Task, put func(*piece) error) error {
	for off, end := seg.Offset, seg.Offset+seg.Length; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := make([]byte, min(end-off, maxData))
		if n, err := file.ReadAt(p, off); n < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("at byte %d: %w", off+int64(n), err)
		}
		told := int64(0)
		for _, r := range runs(p) {
			data := p[r.Offset : r.Offset+r.Length]
			span := r.Offset + r.Length - told
			told += span
			if err := put(&piece{f: &frame{kind: frameData, object: uint16(object), offset: off + r.Offset, length: len(data), payload: data}, task: task, span: span}); err != nil {
				return err
			}
		}
		if rest := int64(len(p)) - told; rest > 0 {
			if err := put(&piece{task: task, span: rest}); err != nil {
				return err
			}
		}
		off += int64(len(p))
	}
	return nil
}

// runs gives what of p is to be sent.
func runs(p []byte) []sparse.Segment {
	var out []sparse.Segment
	for at := 0; at < len(p); {
		n := min(skipped, len(p)-at)
		if !sparse.IsZero(p[at : at+n]) {
			if k := len(out) - 1; k >= 0 && out[k].Offset+out[k].Length == int64(at) {
				out[k].Length += int64(n)
			} else {
				out = append(out, sparse.Segment{Offset: int64(at), Length: int64(n)})
			}
		}
		at += n
	}
	return slices.Clip(out)
}
