package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/hearsay"
	"hatchery/internal/progress"
	"hatchery/netboot/store"
)

// Receive takes in what [Send] pushes over rw. What arrived before an error is
// kept for the next push. The reporter, which may be nil, is told what is
// received; the sender learns what takes time beside that.
func Receive(ctx context.Context, rw io.ReadWriter, s *store.Store, reporter progress.Reporter) (*Result, error) {
	if reporter == nil {
		reporter = progress.Discard
	}
	r := bufio.NewReaderSize(rw, 256<<10)
	if err := welcome(ctx, r, rw); err != nil {
		return nil, fmt.Errorf("cannot receive: %w", err)
	}
	decoder, err := newDecoder()
	if err != nil {
		return nil, err
	}
	rec := &receiver{s: s, c: newConn(r, rw, decoder), report: reporter}
	result, err := rec.receive(ctx)
	rec.c.close(err)
	if err != nil {
		return nil, fmt.Errorf("cannot receive: %w", err)
	}
	return result, nil
}

func welcome(ctx context.Context, r *bufio.Reader, w io.Writer) error {
	said, err := within(ctx, func() (string, error) { return readLine(r, pushPrefix, 0) })
	if err != nil {
		return err
	}
	chosen, err := choose(said)
	answer := strconv.Itoa(chosen)
	if err != nil {
		answer = fmt.Sprintf("none %d-%d", version, version)
	}
	_, werr := within(ctx, func() (int, error) { return fmt.Fprintf(w, "%s%s\n", receivePrefix, answer) })
	if err == nil {
		err = werr
	}
	return err
}

type receiver struct {
	s      *store.Store
	c      *conn
	report progress.Reporter // of this machine
}

func (r *receiver) receive(ctx context.Context) (*Result, error) {
	f, err := r.c.receive(ctx)
	if err != nil {
		return nil, err
	}
	var o offer
	if f.kind != frameOffer {
		return nil, fmt.Errorf("it begins with a frame of type %d and no offer", f.kind)
	}
	if err := f.into(&o); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	both := &remote{ctx: ctx, c: r.c, local: r.report}
	in, err := r.s.Incoming(ctx, both)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	result, w, err := r.want(in, &o)
	if err != nil {
		return nil, err
	}
	f, err = message(frameWant, w)
	if err != nil {
		return nil, err
	}
	if err := r.c.send(ctx, f); err != nil {
		return nil, err
	}
	for _, want := range w.Objects {
		object := o.Objects[want.Object]
		n, err := r.object(ctx, in, want.Object, object, both)
		result.Data += n
		if err != nil {
			return nil, err
		}
		result.Stored = append(result.Stored, object)
	}
	if err := r.assign(ctx, &o, result); err != nil {
		return nil, err
	}
	f, err = message(frameResult, result)
	if err != nil {
		return nil, err
	}
	return result, r.c.send(ctx, f)
}

// want finds what is lacking, and whether there is room for it.
func (r *receiver) want(in *store.Incoming, o *offer) (*Result, wanted, error) {
	var result Result
	var w wanted
	offered := map[digest.Digest]bool{}
	for i, object := range o.Objects {
		arrived, err := in.Arrived(object)
		if err != nil {
			return nil, w, err
		}
		offered[object.Digest] = true
		if r.s.Has(object.Kind, object.Digest) {
			result.Present = append(result.Present, object)
		} else {
			w.Objects = append(w.Objects, wantedObject{i, arrived})
		}
	}
	for _, a := range o.Slots {
		for i, d := range append([]digest.Digest{a.Base}, a.Layers...) {
			kind := store.Layer
			if i == 0 {
				kind = store.Base
			}
			if !offered[d] && !r.s.Has(kind, d) {
				return nil, w, &store.MissingError{Digest: d, For: "what " + clusterctrl.SlotName(a.Slot) + " shall boot"}
			}
		}
	}
	return &result, w, in.Room(o.Objects)
}

// object takes in one object, and says how much data of it came.
func (r *receiver) object(ctx context.Context, in *store.Incoming, number int, object store.Object, both progress.Reporter) (came int64, err error) {
	part, err := in.Part(object)
	if err != nil {
		return 0, err
	}
	defer part.Close()
	task := r.report.Begin("receive "+object.String(), object.Size)
	defer func() { task.End(err) }()
	task.Add(part.Arrived())
	err = r.pieces(ctx, part, number, object, func(span int64, data int) {
		task.Add(span)
		came += int64(data)
	})
	if err != nil {
		return came, err
	}
	verify := both.Begin("verify "+string(object.Kind)+" "+object.Digest.Encoded()[:12], -1)
	err = part.Commit(ctx)
	verify.End(err)
	return came, err
}

// pieces takes in an object's data until its end is told.
func (r *receiver) pieces(ctx context.Context, part *store.Part, number int, object store.Object, told func(span int64, data int)) error {
	for {
		f, err := r.c.receive(ctx)
		if err != nil {
			return r.damaged(object, part, err)
		}
		switch {
		case f.kind == frameEnd && int(f.object) == number && f.offset == object.Size:
			told(object.Size-part.Arrived(), 0)
			return nil
		case f.kind != frameData || int(f.object) != number:
			return &store.CorruptError{Name: object.String(), Offset: part.Arrived(),
				What: fmt.Sprintf("a frame of type %d of object %d does not belong here", f.kind, f.object)}
		}
		before := part.Arrived()
		if err := part.Write(ctx, f.payload, f.offset); err != nil {
			return err
		}
		told(part.Arrived()-before, len(f.payload))
		r.c.done(f)
	}
}

// damaged says of which object, and where, what came was not what was sent.
func (r *receiver) damaged(object store.Object, part *store.Part, err error) error {
	var remote *RemoteError
	if errors.As(err, &remote) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, errDamaged) {
		return &store.CorruptError{Name: object.String(), Offset: part.Arrived(), What: err.Error()}
	}
	return fmt.Errorf("%s: after byte %d: %w", object, part.Arrived(), err)
}

// assign gives the slots what they shall boot: all that can have it, though
// one cannot.
func (r *receiver) assign(ctx context.Context, o *offer, result *Result) error {
	var errs []error
	for _, a := range o.Slots {
		changed, err := r.slot(ctx, o, a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		running, err := r.s.Running(a.Slot)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		result.Slots = append(result.Slots, SlotResult{a.Slot, changed, running})
	}
	return errors.Join(errs...)
}

func (r *receiver) slot(ctx context.Context, o *offer, a Assignment) (changed bool, err error) {
	root := store.Root{
		Base: a.Base, Layers: slices.Clone(a.Layers), By: hearsay.Line(o.By, 200),
		Label: store.Label{File: hearsay.Line(a.Label.File, 200), Cluster: hearsay.Line(a.Label.Cluster, 200), Epoch: a.Label.Epoch},
		Build: a.Build,
	}
	if changed, err = r.s.Assign(ctx, a.Slot, root); err != nil {
		return false, err
	}
	if a.Mode == "" && a.Size == 0 && a.Quota == 0 {
		return changed, nil
	}
	return changed, r.s.Configure(ctx, a.Slot, func(settings *store.Settings) {
		if a.Mode != "" && !settings.Chosen {
			settings.Mode = a.Mode
		}
		if a.Size != 0 {
			settings.Size = a.Size
		}
		if a.Quota != 0 {
			settings.Quota = a.Quota
		}
	})
}

// remote tells both this machine and the sender what is done.
type remote struct {
	ctx   context.Context
	c     *conn
	local progress.Reporter

	mu   sync.Mutex
	last int
}

func (r *remote) Begin(name string, total int64) progress.Task {
	r.mu.Lock()
	r.last++
	t := &remoteTask{r: r, id: r.last, local: r.local.Begin(name, total), told: time.Now()}
	r.mu.Unlock()
	t.tell(frameTaskBegin, taskMessage{ID: t.id, Name: name, Total: total})
	return t
}

type remoteTask struct {
	r     *remote
	id    int
	local progress.Task

	mu   sync.Mutex
	done int64
	told time.Time
	over bool
}

// tell loses what does not get through: the connection's end is noticed
// elsewhere.
func (t *remoteTask) tell(kind frameType, m taskMessage) {
	f, err := message(kind, m)
	if err != nil {
		return
	}
	if kind == frameTaskAdd {
		t.r.c.offer(f)
	} else {
		_ = t.r.c.send(t.r.ctx, f)
	}
}

func (t *remoteTask) Add(n int64) {
	t.local.Add(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += n
	if time.Since(t.told) > 200*time.Millisecond && !t.over {
		t.tell(frameTaskAdd, taskMessage{ID: t.id, Done: t.done})
		t.done, t.told = 0, time.Now()
	}
}

func (t *remoteTask) End(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	m := taskMessage{ID: t.id}
	if err != nil {
		m.Error = hearsay.Line(err.Error(), 400)
	}
	t.tell(frameTaskEnd, m)
	t.local.End(err)
}
