package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
	"hatchery/internal/swarmbackup"
)

// A Runner takes backups and gives them to nodes. Run does it; the other
// methods may be called at any time.
type Runner struct {
	o    Options
	soon chan struct{}

	mu      sync.Mutex
	newest  *newest
	holders map[string]swarmbackup.Node // that keep the newest, by name
	failing map[string]string           // nodes that do not take it, and why
	err     error                       // of the last try to take one
}

type newest struct {
	label swarmbackup.Label
	id    string
	bytes int64
}

// What lies in the folder.
const (
	newestName = "newest" + swarmbackup.Suffix
	pullPrefix = "pull-"
)

// New makes a runner, whose folder is made if it is not there. It knows the
// newest backup of an earlier run.
func New(o Options) (*Runner, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &Runner{
		o: o, soon: make(chan struct{}, 1),
		holders: make(map[string]swarmbackup.Node), failing: make(map[string]string),
	}
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("cannot use %s for backups: %w", o.Dir, err)
	}
	return r, nil
}

// open clears away what a killed process left, and finds the newest backup.
func (r *Runner) open() error {
	if err := os.MkdirAll(r.o.Dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.RemoveLeftovers(r.o.Dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.o.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), pullPrefix) {
			if err := os.RemoveAll(filepath.Join(r.o.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	f, err := os.Open(r.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	label, err := swarmbackup.Check(context.Background(), f, r.o.Identity)
	if err != nil {
		// The next one takes its place.
		r.o.Log.Warn("the newest backup here cannot be read", "file", r.file(), "error", err)
		return nil
	}
	id, size, err := swarmbackup.FileID(r.file())
	if err != nil {
		return err
	}
	r.newest = &newest{*label, id, size}
	return nil
}

func (r *Runner) file() string { return filepath.Join(r.o.Dir, newestName) }

// Soon asks for a backup before long, whatever else: a node has joined, or
// something was revoked. It does not wait.
func (r *Runner) Soon() {
	select {
	case r.soon <- struct{}{}:
	default:
	}
}

// View says where the newest backup is, nil where there is none and nothing
// went wrong.
func (r *Runner) View() *enrol.BackupView {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newest == nil && r.err == nil {
		return nil
	}
	v := &enrol.BackupView{Nodes: []string{}}
	if r.newest != nil {
		v.Taken, v.Bytes = r.newest.label.Taken, r.newest.bytes
	}
	for _, node := range r.sortedHolders() {
		v.Nodes = append(v.Nodes, node.Name)
	}
	switch {
	case r.err != nil:
		v.Error = r.err.Error()
	case len(v.Nodes) < r.o.Copies:
		v.Error = fmt.Sprintf("%d of %d nodes have it", len(v.Nodes), r.o.Copies)
		for _, name := range sortedKeys(r.failing) {
			v.Error += "; " + r.failing[name]
		}
	}
	return v
}

func (r *Runner) sortedHolders() []swarmbackup.Node {
	nodes := make([]swarmbackup.Node, 0, len(r.holders))
	for _, node := range r.holders {
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b swarmbackup.Node) int {
		return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Name, b.Name))
	})
	return nodes
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Write takes a backup now and writes it, for whoever wants to keep one
// elsewhere. The nodes are not given it.
func (r *Runner) Write(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp(r.o.Dir, pullPrefix)
	if err != nil {
		return fmt.Errorf("cannot back up: %w", err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, newestName)
	if _, err := r.take(ctx, file); err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot back up: %w", err)
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func (r *Runner) take(ctx context.Context, file string) (*swarmbackup.Label, error) {
	return swarmbackup.Take(ctx, file, swarmbackup.Source{Identity: r.o.Identity, DockerRoot: r.o.DockerRoot, State: r.o.StateDir})
}

// Run takes backups until the context ends, whose cause it gives.
func (r *Runner) Run(ctx context.Context) error {
	changes := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() { r.listen(ctx, changes) })
	defer wg.Wait()

	s := schedule{times: r.o.Times}
	// What changed while nobody was listening is not known.
	s.hurry(time.Now())
	var looked, surveyed time.Time
	for {
		var due <-chan time.Time
		if at := s.due(); !at.IsZero() {
			due = time.After(time.Until(at))
		}
		look := time.After(r.o.Times.Retry - time.Since(looked))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changes:
			s.changed(time.Now())
		case <-r.soon:
			s.hurry(time.Now())
		case <-due:
			began := time.Now()
			if r.renew(ctx) {
				s.done(began)
				r.push(ctx)
			} else {
				s.failed(time.Now())
			}
		case <-look:
			// The nodes are asked rarely; one that came up since is given the backup.
			if surveyed.IsZero() || time.Since(surveyed) >= r.o.Times.Survey {
				r.survey(ctx)
				surveyed = time.Now()
			}
			r.push(ctx)
			looked = time.Now()
		}
	}
}

// listen passes the swarm's changes on, many as one.
func (r *Runner) listen(ctx context.Context, changes chan<- struct{}) {
	if r.o.Changes == nil {
		return
	}
	tell := func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	}
	for first := true; ; first = false {
		events, err := r.o.Changes(ctx)
		if err == nil && !first {
			tell() // whatever was missed in between
		}
		for open := err == nil; open; {
			select {
			case _, open = <-events:
				if open {
					tell()
				}
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(min(r.o.Times.Retry, 5*time.Second)):
		case <-ctx.Done():
			return
		}
	}
}

// renew takes a new backup in the place of the newest.
func (r *Runner) renew(ctx context.Context) bool {
	label, err := r.take(ctx, r.file())
	var id string
	var size int64
	if err == nil {
		id, size, err = swarmbackup.FileID(r.file())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return false
	case errors.Is(err, swarmbackup.ErrNoSwarm) && r.newest == nil:
		r.err = nil // not yet
		return false
	case err != nil:
		if r.err == nil || r.err.Error() != err.Error() {
			r.o.Log.Error("the swarm is not backed up", "error", err)
		}
		r.err = err
		return false
	}
	r.newest, r.err = &newest{*label, id, size}, nil
	clear(r.holders)
	clear(r.failing)
	r.o.Log.Info("the swarm is backed up", "swarm", label.Swarm, "index", label.Index, "bytes", size)
	return true
}

// survey finds out which nodes keep the newest backup: one that was rebuilt has it no
// longer.
func (r *Runner) survey(ctx context.Context) {
	r.mu.Lock()
	current := r.newest
	r.mu.Unlock()
	nodes := r.o.Nodes()
	if current == nil || len(nodes) == 0 {
		return
	}
	found := r.o.Client.Survey(ctx, nodes)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, node := range found.Answered {
		delete(r.holders, node.Name)
	}
	for _, offer := range found.Offers {
		for _, node := range offer.Nodes {
			if offer.ID == current.id {
				r.holders[node.Name] = node
			}
		}
	}
}

// atOnce is how many nodes are given a backup side by side.
const atOnce = 4

// push gives the newest backup to all nodes that are up and do not have it.
func (r *Runner) push(ctx context.Context) {
	nodes := r.o.Nodes()
	r.mu.Lock()
	current := r.newest
	var lacking []swarmbackup.Node
	for _, node := range nodes {
		if _, has := r.holders[node.Name]; !has {
			lacking = append(lacking, node)
		}
	}
	r.mu.Unlock()
	if current == nil {
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, node := range lacking {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			err := r.o.Client.Put(ctx, node, current.id, r.file())
			if ctx.Err() != nil {
				return
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if err != nil {
				if r.failing[node.Name] != err.Error() {
					r.o.Log.Warn("a node did not take the backup", "node", node.Name, "error", err)
				}
				r.failing[node.Name] = err.Error()
				return
			}
			delete(r.failing, node.Name)
			r.holders[node.Name] = node
		})
	}
	wg.Wait()
}
