package reimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/nodefile"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/store"
)

// A Service has cards written.
type Service struct {
	o       Options
	targets map[int]nodefile.Target
	ctx     context.Context // of what is made in the background
	stop    func()
	beside  sync.WaitGroup
	hurry   chan struct{} // capacity 1: something is to be finished

	// unfinished are the slots whose cards are begun, for who does not wait.
	unfinished atomic.Pointer[map[int]bool]

	turn chan struct{} // capacity 1: one list is made at a time

	mu      sync.Mutex
	records map[int]*record
	busy    map[int]*work  // a Reimage or an UndoTo is at work
	said    map[int]string // what nodes said that their cards hold, and the store does not know yet
	preps   map[string]*preparation
	closed  bool
}

// New takes up what another run of the service left.
func New(o Options) (*Service, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "lists"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep which cards are being written: %w", err)
	}
	for _, dir := range []string{o.Dir, filepath.Join(o.Dir, "lists")} {
		if err := atomicfile.RemoveLeftovers(dir); err != nil {
			return nil, fmt.Errorf("cannot keep which cards are being written: %w", err)
		}
	}
	records, err := readRecords(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	s := &Service{
		o: o, targets: map[int]nodefile.Target{}, hurry: make(chan struct{}, 1),
		records: records, busy: map[int]*work{}, said: map[int]string{}, preps: map[string]*preparation{}, turn: make(chan struct{}, 1),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for _, t := range o.Node.Targets {
		if t.Slot != 0 {
			s.targets[t.Slot] = t
		}
	}
	now := time.Now()
	for _, r := range records {
		r.armedAt = now
		if r.Phase == Done || r.Held != nil {
			r.doneAt = now
		}
	}
	s.noteUnfinished()
	return s, nil
}

// Run finishes what nodes have done, until ctx ends, which is no error.
func (s *Service) Run(ctx context.Context) error {
	defer s.close()
	tick := time.NewTicker(s.o.Times.Retry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.hurry:
		case <-tick.C:
		}
		s.leftovers()
		s.revive()
		for slot, r := range s.whole() {
			s.finish(ctx, slot, r)
		}
		s.remember(ctx)
	}
}

// close ends what is under way in the background.
func (s *Service) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.beside.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, p := range s.preps {
		if delete(s.preps, key); p.users > 0 {
			p.old = true
		} else {
			p.close()
		}
	}
	for _, r := range s.records {
		r.prep = nil
		r.poke()
	}
}

// whole gives the records whose cards are written, and whose agents were heard since.
func (s *Service) whole() map[int]*record {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[int]*record{}
	for slot, r := range s.records {
		if r.Phase == Done && r.lastAgent.After(r.doneAt) && r.agentBoot != r.BootID {
			out[slot] = r
		}
	}
	return out
}

// finish ends the record of a card that is whole.
func (s *Service) finish(ctx context.Context, slot int, r *record) {
	err := s.o.Store.Carded(ctx, r.Root)
	switch {
	case errors.Is(err, store.ErrNetboots):
		// Somebody made it one without a card meanwhile. The card is whole all the same.
		err = nil
	case err != nil:
		if ctx.Err() == nil {
			s.o.Log.Error("a card was written, and that cannot be remembered", "slot", slot, "error", err)
		}
		return // and is tried again
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[slot] == r && r.Phase == Done {
		s.o.Log.Info("a card was written, and its node is back", "slot", slot, "operation", r.Operation, "took", time.Since(r.Since).Round(time.Second))
		s.drop(slot, r, nil)
	}
}

// drop ends a record. The caller holds the lock.
func (s *Service) drop(slot int, r *record, result error) {
	if s.records[slot] != r {
		return
	}
	delete(s.records, slot)
	r.result, r.prep = result, nil
	close(r.finished)
	if err := s.save(); err != nil {
		// Whoever reads the old file takes the record up again, and finds it done.
		s.o.Log.Error("a card's record stays", "slot", slot, "error", err)
	}
	s.tidy()
}

// Heard says that a slot's agent was heard, and in which boot. It does not wait.
func (s *Service) Heard(slot int, bootID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[slot]
	if r == nil {
		return
	}
	r.lastAgent, r.agentBoot = time.Now(), bootID
	r.poke()
	if r.Phase == Done {
		select {
		case s.hurry <- struct{}{}:
		default:
		}
	}
}

// Busy says whether a slot's card is being written, so that its power is not to be touched
// by others.
func (s *Service) Busy(slot int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[slot] != nil || s.busy[slot] != nil
}

// Unfinished says whether a slot's card is begun and not whole, so that its node may find
// nothing on it to start from. It does not wait.
func (s *Service) Unfinished(slot int) bool { return (*s.unfinished.Load())[slot] }

// Rewrites says whether a slot's card is begun and is about to be written on, so that a
// root that starts from it all the same does not stay: a power cut right behind the last
// sector leaves one. A service that began a moment ago does not know yet whether somebody
// goes on with it. It does not wait.
func (s *Service) Rewrites(slot int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[slot]
	return r != nil && r.Phase == Writing && (s.busy[slot] != nil || time.Since(r.left) < s.o.Times.Left)
}

// Rescued says that a slot's node was started over its link with what writes cards, since it
// finds nothing on its card to start from. Where nothing is heard of that, the slot's View
// says so.
func (s *Service) Rescued(slot int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.records[slot]; r != nil && (r.rescued.IsZero() || r.rescued.Before(r.lastNode)) {
		r.rescued = time.Now() // else it is since then that nothing is heard
	}
}

// noteUnfinished remembers which cards are begun. The caller holds the lock, or nobody
// else knows the service yet.
func (s *Service) noteUnfinished() {
	begun := map[int]bool{}
	for slot, r := range s.records {
		if r.Phase == Writing {
			begun[slot] = true
		}
	}
	s.unfinished.Store(&begun)
}

// A View is where a slot's card stands.
type View struct {
	Operation string        `json:"operation"`
	Phase     string        `json:"phase"` // Arming and so on
	Root      store.Root    `json:"root"`  // what the card is to hold
	Undo      bool          `json:"undo,omitempty"`
	Since     time.Time     `json:"since"`
	Progress  wire.Progress `json:"progress,omitzero"` // by the node's word
	// Started says that the node's agent was heard although its card is begun.
	Started bool `json:"started,omitempty"`
	// StrandedS is how long ago the node was started over its link, in seconds, where what
	// writes its card was not heard of since and should have been.
	StrandedS int64 `json:"stranded_s,omitempty"`
	// Silent is how long nothing was heard of the node, in seconds.
	SilentS int64 `json:"silent_s,omitempty"`
	// Revived is how often the node was switched off and on by itself, since somebody waited
	// for it: GivenUp says that this is not done any more.
	Revived int  `json:"revived,omitempty"`
	GivenUp bool `json:"given_up,omitempty"`
	// Rescued says that the node was started over its link since it was heard: whatever it
	// was at before, it is not at that any more.
	Rescued bool `json:"rescued,omitempty"`
}

// String is the view for people.
func (v *View) String() string {
	text := map[string]string{
		Arming: "the node is asked to write its card", Armed: "the node restarts, to write its card", Asked: "the node is about to write its card",
		Writing: "the card is being written", Done: "the card is written; the node starts",
	}[v.Phase]
	if p := v.Progress; p.State != "" && v.Phase != Done {
		text += ": " + progressText(&p)
	}
	switch {
	case v.StrandedS > 0 && !v.Started:
		text += fmt.Sprintf(": its node was started over its link to go on, %[2]d minutes ago, and what writes the card was not heard of: its card holds no order, or cannot be read, or is another: hatchery console p%[1]d shows what it says; else flash a card for it and put that in (hatchery rebuild p%[1]d --wait --keep)",
			v.Root.Slot, v.StrandedS/60)
	case v.Started:
		text += ": its node has started a system all the same, so that this may be another card: the next rebuild writes it"
	case v.GivenUp:
		text += fmt.Sprintf(": nothing was heard for %d minutes, and it was switched off and on %d times in vain: hatchery console p%[3]d shows what it says; it begins again with hatchery rebuild p%[3]d --keep, or flash a card for it and put that in (hatchery rebuild p%[3]d --wait --keep)",
			v.SilentS/60, v.Revived, v.Root.Slot)
	case v.Phase == Writing && v.SilentS >= 120:
		text += fmt.Sprintf(": nothing was heard for %d minutes: it begins again when it has power and its link", v.SilentS/60)
	}
	return text
}

func progressText(p *wire.Progress) string {
	text := p.State
	if p.Total > 0 {
		text += fmt.Sprintf(" %d of %d MiB", p.Done>>20, (p.Total+1<<20-1)>>20)
	}
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	if p.Attempt > 1 {
		text += fmt.Sprintf(" (start %d)", p.Attempt)
	}
	return text
}

// View gives where a slot's card stands; nil where it is not written.
func (s *Service) View(slot int) *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[slot]
	if r == nil {
		return nil
	}
	v := &View{
		Operation: r.Operation, Phase: r.Phase, Root: r.Root, Undo: r.Undo, Since: r.Since, Progress: r.progress,
		Started: r.Phase == Writing && r.startedAnew(), SilentS: int64(time.Since(r.heard()).Seconds()),
		Revived: r.Revived, Rescued: r.rescued.After(r.heard()),
	}
	v.GivenUp = r.Phase == Writing && r.Revived >= maxRevivals && !r.reviving && time.Since(r.heard()) > s.o.Times.Silent
	if since := time.Since(r.rescued); r.Phase == Writing && r.rescued.After(r.lastNode) && since > s.o.Times.Rescue {
		v.StrandedS = max(1, int64(since.Seconds()))
	}
	return v
}

// heard is when the node was heard last, in whichever way.
func (r *record) heard() time.Time {
	last := r.armedAt
	for _, t := range []time.Time{r.lastNode, r.lastAgent} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// A preparation is an image that is open, with the list of its pieces, or on its way there.
type preparation struct {
	done   chan struct{} // closed when it is settled:
	err    error
	image  *store.Image
	list   *wire.List
	wire   []byte // the list as it is sent
	said   *wire.Image
	hashed atomic.Int64 // bytes, while it is on its way
	users  int          // streams, under the service's lock
	old    bool         // closes with its last user
}

func (p *preparation) settled() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *preparation) close() {
	if p.image != nil {
		p.image.Close()
		p.image = nil
	}
}

func (s *Service) listsDir() string { return filepath.Join(s.o.Dir, "lists") }

func contentOf(r *store.Root) string {
	var b strings.Builder
	b.WriteString(string(r.Base))
	for _, l := range r.Layers {
		b.WriteString(" " + string(l))
	}
	return b.String()
}

var errEnding = errors.New("the service is ending")

// prepare begins to open what a record's card is to hold, unless that was begun. The caller
// holds the lock.
func (s *Service) prepare(r *record) *preparation {
	key := contentOf(&r.Root)
	if p := s.preps[key]; p != nil && !(p.settled() && p.err != nil) {
		r.prep = p
		return p
	}
	p := &preparation{done: make(chan struct{})}
	s.preps[key], r.prep = p, p
	if s.closed {
		p.err = errEnding
		close(p.done)
		return p
	}
	root := r.Root
	s.beside.Go(func() {
		defer close(p.done)
		if p.image, p.err = s.o.Store.Image(root); p.err != nil {
			return
		}
		select {
		case s.turn <- struct{}{}: // another slot's has most of this one's
			defer func() { <-s.turn }()
		case <-s.ctx.Done():
			p.err = errEnding
			p.close()
			return
		}
		l := &lists{dir: s.listsDir(), hashed: func(n int64) { p.hashed.Add(n) }}
		if p.list, p.err = l.of(s.ctx, p.image.Chain()); p.err != nil {
			p.close()
			return
		}
		p.wire, p.said = wire.AppendList(nil, p.list), p.list.Image("")
		p.list.Sums = p.wire[len(p.wire)-len(p.list.Sums):] // one copy is enough
	})
	return p
}

// tidy closes the images that no record needs. The caller holds the lock.
func (s *Service) tidy() {
	needed := map[string]bool{}
	for _, r := range s.records {
		needed[contentOf(&r.Root)] = true
	}
	for key, p := range s.preps {
		if needed[key] || !p.settled() {
			continue // what is on its way is looked at again with the next
		}
		delete(s.preps, key)
		if p.users > 0 {
			p.old = true
		} else {
			p.close()
		}
	}
}

// use holds on to an image that is open.
func (s *Service) use(p *preparation) { p.users++ }

// unuse lets go of it.
func (s *Service) unuse(p *preparation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.users--; p.users == 0 && p.old {
		p.close()
	}
}
