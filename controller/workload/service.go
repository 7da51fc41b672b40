package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hatchery/internal/declared"
	"hatchery/internal/hearsay"
	"hatchery/internal/swarm"
)

// maxDetail bounds what is told of an error, in bytes.
const maxDetail = 2 << 10

// errNoSwarm says that there is no swarm yet, or none that this engine manages.
var errNoSwarm = errors.New("there is no swarm to run it on")

// What is refused.
var (
	ErrUnknown = errors.New("nothing of that name is declared")
	ErrWrong   = errors.New("it cannot be used")
)

// A Service runs what is declared. Its methods may be called at the same time.
type Service struct {
	o      Options
	wake   chan struct{}
	images shelf

	passing sync.Mutex // held by a pass that is not dry, and by whoever brings something

	mu       sync.Mutex
	declared *declared.Workloads // nil: nothing
	digest   string              // of it
	over     string              // of the image's
	broken   error               // why nothing can be read
	record   *record
	status   Status
	changed  chan struct{} // closed when the status changes
	left     bool          // something old is to be swept
	last     Request       // how it was applied last
	looked   bool          // the status says what the swarm has
}

// New reads what is declared and what was done. What is declared and cannot be read is
// told by the status; something else can be declared then.
func New(o Options) (*Service, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Service{o: o, wake: make(chan struct{}, 1), changed: make(chan struct{}), images: shelf{engine: o.Engine}}
	for _, dir := range []string{o.SecretsDir, o.ConfigsDir} {
		if err := declared.Secrets(dir).Clean(); err != nil {
			return nil, err
		}
	}
	var err error
	if s.record, err = readRecord(o.StateDir); err != nil {
		return nil, err
	}
	s.declared, s.over, s.broken = readDeclared(o.Image, o.StateDir)
	s.settle()
	return s, nil
}

// settle begins with what is declared. The caller holds the lock, or is alone.
func (s *Service) settle() {
	s.digest = ""
	if !s.declared.Empty() {
		s.digest = s.declared.Digest()
	}
	s.status.Declared, s.status.Applied, s.status.AppliedAt = s.digest, s.record.Applied, s.record.AppliedAt
	switch {
	case s.broken != nil:
		s.state(StateFailed, s.broken.Error())
	case s.digest == "" && s.record.Applied == "" && s.record.Begun == nil:
		s.state(StateNone, "")
	case s.digest == s.record.Applied && s.record.Begun == nil && !s.waits():
		s.state(StateApplied, "")
	default:
		s.state(StateWaiting, "it is applied as soon as the swarm is there")
		s.status.Asked++
	}
}

// waits says whether the content of something that is declared waits for the swarm.
func (s *Service) waits() bool {
	return s.declared != nil && slices.ContainsFunc(things(s.declared), func(t thing) bool {
		if t.kind == KindConfig && !t.pushed || t.driver != nil {
			return false
		}
		dir := declared.Secrets(s.o.SecretsDir)
		if t.kind == KindConfig {
			dir = declared.Secrets(s.o.ConfigsDir)
		}
		_, err := dir.Get(t.name)
		return err == nil
	})
}

// state has another state be told. The caller holds the lock, or is alone.
func (s *Service) state(state, detail string) {
	detail = hearsay.Line(hearsay.WithoutSecrets(detail), maxDetail)
	if s.status.State != state || s.status.Since.IsZero() {
		s.status.Since = time.Now().UTC()
	}
	s.status.State, s.status.Detail = state, detail
	s.news()
}

// news wakes who follows. The caller holds the lock, or is alone.
func (s *Service) news() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Service) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// told hands on what was done.
func (s *Service) told(detail string) {
	s.o.Log.Info("workloads", "done", detail)
	s.o.Told(hearsay.Line(detail, maxDetail))
}

// applying tells that something is being done, as soon as that is so: a pass that only
// looks changes nothing of what is told.
func (s *Service) applying(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state(StateApplying, what)
}

// save has a record on the disk, and goes by it.
func (s *Service) save(r *record) error {
	if err := r.write(s.o.StateDir); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record = r
	return nil
}

// deleted removes the content of something that the swarm has, unless another was
// brought meanwhile.
func (s *Service) deleted(kind, name string, content []byte) error {
	dir := declared.Secrets(s.o.SecretsDir)
	if kind == KindConfig {
		dir = declared.Secrets(s.o.ConfigsDir)
	}
	now, err := dir.Get(name)
	if err != nil || string(now) != string(content) {
		return nil // the next pass sees to it
	}
	return dir.Delete(name)
}

// ask has a pass made. The caller holds the lock.
func (s *Service) ask() {
	s.status.Asked++
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Declare says what is to run from now on.
func (s *Service) Declare(w *declared.Workloads) error {
	if err := w.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrWrong, err)
	}
	s.passing.Lock()
	defer s.passing.Unlock()
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if err := writeDeclared(s.o.StateDir, over, w); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.declared, s.broken, s.digest = w, nil, w.Digest()
	s.status.Declared = s.digest
	s.state(StateWaiting, "it is about to be applied")
	s.ask()
	return nil
}

// Push brings the content of a secret or a config that is declared.
func (s *Service) Push(kind, name string, content []byte) error {
	s.passing.Lock()
	defer s.passing.Unlock()
	s.mu.Lock()
	w := s.declared
	s.mu.Unlock()
	known := w != nil && slices.ContainsFunc(things(w), func(t thing) bool {
		return t.kind == kind && t.name == name && t.driver == nil && (kind == KindSecret || t.pushed)
	})
	if !known {
		return fmt.Errorf("%w: no %s %.70q that can be brought: declare it in cluster.yaml, and say `hatchery workloads apply`", ErrUnknown, kind, name)
	}
	if len(content) == 0 || len(content) > declared.MaxSecret {
		return fmt.Errorf("%w: the %s %s has %d bytes; a swarm takes 1 to %d", ErrWrong, kind, name, len(content), declared.MaxSecret)
	}
	dir := declared.Secrets(s.o.SecretsDir)
	if kind == KindConfig {
		dir = declared.Secrets(s.o.ConfigsDir)
	}
	if err := dir.Put(name, content); err != nil {
		return err
	}
	s.told(fmt.Sprintf("%s %s: brought", kind, name))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state(StateWaiting, "it is about to be applied")
	s.ask()
	return nil
}

// Apply has all that is declared applied now.
func (s *Service) Apply(r Request) error {
	s.passing.Lock()
	defer s.passing.Unlock()
	s.mu.Lock()
	next := s.record.clone()
	s.mu.Unlock()
	next.Begun = &r
	s.images.forget()
	if err := s.save(next); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.state(StateWaiting, "it is about to be applied")
	}
	s.ask()
	return nil
}

// Plan says what applying w would do; nil: what is declared.
func (s *Service) Plan(ctx context.Context, w *declared.Workloads, r Request) (*Plan, error) {
	s.mu.Lock()
	if w == nil {
		w = s.declared
	}
	broken, record := s.broken, s.record.clone()
	s.mu.Unlock()
	if w == nil {
		if broken != nil {
			return nil, fmt.Errorf("%w: %w", ErrWrong, broken)
		}
		w = declared.New(declared.WaitForNodes, declared.GuardError)
	}
	if err := w.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWrong, err)
	}
	p := &pass{s: s, w: w, request: r, dry: true, record: record}
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	p.plan.Declared = w.Digest()
	return &p.plan, nil
}

// Status is where it stands. What runs of the services the swarm is asked for.
func (s *Service) Status(ctx context.Context) *Status {
	v := s.View()
	if v.State == StateNone {
		return v
	}
	entries, err := s.o.Engine.ServiceEntries(ctx)
	if err != nil {
		return v
	}
	byStack := map[string][]ServiceStatus{}
	for _, e := range entries {
		namespace, mine := ours(e)
		if !mine {
			continue
		}
		byStack[namespace] = append(byStack[namespace], serviceStatus(e))
	}
	for i := range v.Stacks {
		list := byStack[v.Stacks[i].Name]
		slices.SortFunc(list, func(a, b ServiceStatus) int { return cmp.Compare(a.Name, b.Name) })
		v.Stacks[i].Services = list
	}
	return v
}

// View is where it stood last, without asking anybody.
func (s *Service) View() *Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.status
	v.Stacks = slices.Clone(v.Stacks)
	return &v
}

// Run applies what is declared until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var events <-chan struct{}
	listening, stop := context.WithCancel(ctx)
	defer stop()
	for {
		s.mu.Lock()
		due := s.status.Asked > s.status.Done && s.broken == nil
		s.mu.Unlock()
		pause := time.Duration(0)
		switch {
		case due:
			if err := s.round(ctx); err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
		case s.leftover():
			s.tidy(ctx)
		default:
			s.lookOnce(ctx)
		}
		s.mu.Lock()
		switch {
		case s.status.State == StateWaiting:
			pause = s.o.Limits.Look
		case s.status.State == StateFailed && s.broken == nil, s.left, s.broken == nil && !s.looked:
			pause = s.o.Limits.Again
		}
		waiting := s.status.State == StateWaiting
		s.mu.Unlock()
		if waiting && events == nil {
			// Without them it is looked at again all the same.
			events, _ = s.o.Engine.Events(listening)
		}
		var again <-chan time.Time
		if pause > 0 {
			again = time.After(pause)
		}
		heard := events
		if !waiting {
			heard = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		case _, open := <-heard:
			if !open {
				events = nil
			}
		case <-again:
			s.retry()
		}
	}
}

func (s *Service) leftover() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// retry has what failed tried again, which nobody asked for.
func (s *Service) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State == StateFailed && s.broken == nil && s.status.Asked == s.status.Done {
		s.status.Asked++
	}
}

// round makes one pass, and tells how it ended.
func (s *Service) round(ctx context.Context) error {
	s.passing.Lock()
	defer s.passing.Unlock()
	s.mu.Lock()
	p := &pass{s: s, w: s.declared, record: s.record.clone()}
	if p.w == nil {
		p.w = declared.New(declared.WaitForNodes, declared.GuardError)
	}
	if s.record.Begun != nil {
		p.request = *s.record.Begun
	}
	asked, before, digest := s.status.Asked, s.status.State, s.digest
	s.mu.Unlock()

	err := p.leads(ctx)
	if err == nil {
		err = p.run(ctx)
	}
	if err == nil && p.status.State == StateApplied {
		now := time.Now().UTC()
		p.record.Applied, p.record.AppliedAt, p.record.Begun = digest, &now, nil
		err = p.save()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		s.state(before, s.status.Detail)
		return ctx.Err()
	case errors.Is(err, errNoSwarm), errors.Is(err, swarm.ErrUnreachable), errors.Is(err, swarm.ErrNotManager), errors.Is(err, swarm.ErrNotActive),
		errors.Is(err, swarm.ErrNoLeader), errors.Is(err, swarm.ErrManagerUnreachable):
		s.state(StateWaiting, "for the swarm: "+err.Error())
		return err
	case errors.Is(err, swarm.ErrConflict), errors.Is(err, swarm.ErrExists), errors.Is(err, swarm.ErrNotFound), errors.Is(err, errNotLeading):
		// Somebody is at work at the same time: it is looked at anew.
		s.state(StateWaiting, err.Error())
		return err
	case err != nil:
		s.status.Done = asked
		s.fail(before, err.Error())
		return err
	}
	s.status.Stacks, s.status.Networks, s.status.Secrets, s.status.Configs = p.status.Stacks, p.status.Networks, p.status.Secrets, p.status.Configs
	s.status.Warnings, s.left, s.last, s.looked = p.status.Warnings, p.left, p.request, true
	s.status.Applied, s.status.AppliedAt = s.record.Applied, s.record.AppliedAt
	switch p.status.State {
	case StateFailed:
		s.status.Done = asked
		s.fail(before, p.status.Detail)
	case StateApplied:
		s.status.Done = asked
		state := StateApplied
		if s.digest == "" || s.declared.Empty() {
			state = StateNone
		}
		s.state(state, "")
		if before != StateApplied || len(p.plan.Steps) > 0 {
			s.told("all that is declared is applied")
		}
	default:
		if s.status.Detail != p.status.Detail {
			s.told(p.status.Detail)
		}
		s.state(StateWaiting, p.status.Detail)
	}
	return nil
}

// fail has a failure told, once. The caller holds the lock.
func (s *Service) fail(before, detail string) {
	told := hearsay.Line(hearsay.WithoutSecrets(detail), maxDetail)
	if before != StateFailed || s.status.Detail != told {
		s.told("failed: " + detail)
	}
	s.state(StateFailed, detail)
}

// tidy removes what was in use yet when it was done.
func (s *Service) tidy(ctx context.Context) {
	s.passing.Lock()
	defer s.passing.Unlock()
	s.mu.Lock()
	p := &pass{s: s, w: s.declared, record: s.record.clone(), request: s.last}
	state, detail := s.status.State, s.status.Detail
	s.mu.Unlock()
	if p.w == nil {
		p.w = declared.New(declared.WaitForNodes, declared.GuardError)
	}
	err := p.tidy(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State == StateApplying {
		s.state(state, detail) // where it stands is not changed by it
	}
	if err != nil {
		s.o.Log.Warn("what is not needed any more cannot be removed", "error", err)
		return
	}
	s.left = p.left
}

// lookOnce has the status say what the swarm has, where nothing is to be done.
func (s *Service) lookOnce(ctx context.Context) {
	s.mu.Lock()
	p := &pass{s: s, w: s.declared, dry: true, record: s.record.clone()}
	if s.looked || s.broken != nil || p.w == nil {
		s.looked = true
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if err := p.run(ctx); err != nil {
		return // it is tried again
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.looked {
		s.looked = true
		s.status.Stacks, s.status.Networks, s.status.Secrets, s.status.Configs = p.status.Stacks, p.status.Networks, p.status.Secrets, p.status.Configs
		s.news()
	}
}

func serviceStatus(e swarm.ServiceEntry) ServiceStatus {
	v := ServiceStatus{Name: e.Spec.Name, Running: e.Running, Desired: e.Desired}
	if c := e.Spec.TaskTemplate.ContainerSpec; c != nil {
		v.Image = c.Image
	}
	switch mode := e.Spec.Mode; {
	case mode.Replicated != nil:
		v.Mode = swarm.Replicated
	case mode.Global != nil:
		v.Mode = swarm.Global
	case mode.ReplicatedJob != nil:
		v.Mode = swarm.ReplicatedJob
	case mode.GlobalJob != nil:
		v.Mode = swarm.GlobalJob
	}
	return v
}
