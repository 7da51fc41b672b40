package imagebuilder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/declared"
	"hatchery/internal/nodefile"
	"hatchery/internal/progress"
	"hatchery/internal/spec"
	"hatchery/internal/stack"
	"hatchery/internal/stack/placement"
	"hatchery/overlays"
)

// WorkloadOptions are what the caller of Workloads chooses.
type WorkloadOptions struct {
	Cache    string            // the cache folder; "" is the user's own
	Offline  bool              // ask no registry
	Progress progress.Reporter // nil means nobody is told
	// Names says that the content of secrets is not wanted, so that a variable that
	// is not set is no mistake.
	Names bool
}

// Workloads are what a cluster runs, settled as far as a workstation can.
type Workloads struct {
	Declared *declared.Workloads
	// Secrets is the content of those that are not pushed, by the names that stacks
	// have for them. It is for no log.
	Secrets  map[string][]byte
	Warnings []spec.Problem
}

// ReadWorkloads reads what cluster.yaml has the cluster run, judges it, and asks
// registries what processors the images are for. What is wrong with it is told at
// once, as [*spec.Errors].
func ReadWorkloads(ctx context.Context, c *spec.Cluster, o WorkloadOptions) (*Workloads, error) {
	l, err := loadWorkloads(ctx, c, o.Names)
	if err != nil {
		return nil, err
	}
	if err := l.guard(ctx, o, archByName); err != nil {
		return nil, err
	}
	return l.settled()
}

// ReadSecrets reads the content of secrets that are not pushed, the stacks' own too, by
// the names that they have in the swarm: of those that are named, or of all.
func ReadSecrets(ctx context.Context, c *spec.Cluster, names []string) (map[string][]byte, error) {
	l, err := loadWorkloads(ctx, c, len(names) > 0)
	if err != nil {
		return nil, err
	}
	w, err := l.settled()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return w.Secrets, nil
	}
	known := w.Declared.SecretNames()
	asked := map[string][]byte{}
	for _, name := range names {
		content, there := w.Secrets[name]
		pushed, declared := known[name]
		switch {
		case there:
			asked[name] = content
		case !declared:
			return nil, undeclared("secret", name, slices.Sorted(maps.Keys(known)))
		case pushed:
			return nil, &InputError{fmt.Errorf("cluster.yaml does not say where %s comes from: name its file with --from, or --from - for stdin", name)}
		default: // its variable is not set
			for _, s := range c.Workloads.Secrets {
				if s.Name == name {
					p := s.Place
					p.Message = fmt.Sprintf("the secret %s: %v", name, &UnsetError{s.Environment})
					return nil, &spec.Errors{Problems: []spec.Problem{p}}
				}
			}
		}
	}
	return asked, nil
}

// CheckDeclared refuses the name of a secret, or of a config, that cluster.yaml does not
// declare, nor a stack of its. Where a stack file has mistakes nobody can tell.
func CheckDeclared(ctx context.Context, c *spec.Cluster, config bool, name string) error {
	kind, all := "secret", c.Workloads.Secrets
	if config {
		kind, all = "config", c.Workloads.Configs
	}
	var known []string
	for _, content := range all {
		known = append(known, content.Name)
	}
	if !config && !slices.Contains(known, name) {
		l, err := loadWorkloads(ctx, c, true)
		if err != nil {
			return nil
		}
		for _, s := range l.stacks {
			for _, secret := range s.Secrets {
				known = append(known, secret.Spec.Name)
			}
		}
	}
	if slices.Contains(known, name) {
		return nil
	}
	return undeclared(kind, name, known)
}

func undeclared(kind, name string, known []string) error {
	return &InputError{fmt.Errorf("cluster.yaml declares no %s %s; there are: %s", kind, name, cmp.Or(strings.Join(known, ", "), "none"))}
}

// WorkloadProblems are what is wrong with the files that a cluster file names which
// has mistakes of its own, so that all are told at once. What is known of the cluster
// is not enough to judge more than the files by themselves.
func WorkloadProblems(ctx context.Context, mistakes *spec.Errors) []spec.Problem {
	c := mistakes.Rest()
	if c == nil {
		return nil
	}
	l := &loading{cluster: c, alone: true}
	if l.load(ctx) != nil {
		return nil
	}
	return slices.DeleteFunc(l.problems, func(p spec.Problem) bool { // of a file that is not there, say
		return p.Path != "" && slices.ContainsFunc(mistakes.Problems, func(told spec.Problem) bool { return told.File == p.File && told.Path == p.Path })
	})
}

// loading is the reading of workloads.
type loading struct {
	cluster *spec.Cluster
	alone   bool // the cluster is not known: stack files are judged by themselves
	names   bool // without the content of secrets

	stacks   []*stack.Stack
	secrets  map[string][]byte
	configs  map[string][]byte
	archives map[string]string // the archives that images come from, by name in full
	problems []spec.Problem
	warnings []spec.Problem
}

// loadWorkloads reads all that is on the workstation. Nobody is asked anything.
func loadWorkloads(ctx context.Context, c *spec.Cluster, names bool) (*loading, error) {
	l := &loading{cluster: c, names: names}
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	return l, l.failed()
}

// failed is everything that is wrong, if anything is.
func (l *loading) failed() error {
	if len(l.problems) == 0 {
		return nil
	}
	return &spec.Errors{Problems: l.problems}
}

func (l *loading) load(ctx context.Context) error {
	w := &l.cluster.Workloads
	l.secrets = l.contents(w.Secrets, "secret", declared.MaxSecret, l.names || l.alone)
	l.configs = l.contents(w.Configs, "config", declared.MaxConfig, l.alone)
	lookup := stack.Variables(nil)
	if w.EnvFile != "" {
		variables, err := stack.ReadVariables(w.EnvFile)
		if err != nil {
			l.problems = append(l.problems, spec.Problem{File: l.cluster.File, Path: "env_file", Message: l.shownIn(err, w.EnvFile)})
			// Of each variable it would be said that it is not set.
			lookup = func(string) (string, bool) { return "1", true }
		} else {
			lookup = stack.Variables(variables)
		}
	}
	if len(w.Stacks)+len(w.Networks)+len(w.Secrets)+len(w.Configs) > 0 && len(l.cluster.Docker.Packages) == 0 && !l.alone {
		l.warnings = append(l.warnings, spec.Problem{File: l.cluster.File, Path: "docker.packages", Message: "it is empty: unless the base image has Docker, nothing runs what is declared"})
	}
	known := l.known()
	for _, file := range w.Stacks {
		s, err := stack.Load(ctx, l.shown(file), stack.Options{Lookup: lookup, Cluster: known})
		var faults *stack.Errors
		switch {
		case errors.As(err, &faults):
			l.tell(faults.Findings)
			continue
		case err != nil:
			return err
		}
		l.tell(s.Warnings)
		l.stacks = append(l.stacks, s)
	}
	l.tell(stack.Conflicts(l.stacks))
	if !l.alone {
		l.collisions()
	}
	return nil
}

// shown is how a file is called for people, and opened: as cluster.yaml is, whose
// folder it begins in.
func (l *loading) shown(file string) string {
	rel, err := filepath.Rel(l.cluster.Dir(), file)
	if err != nil {
		return file
	}
	return filepath.Join(filepath.Dir(l.cluster.File), rel)
}

// shownIn is an error about a file, without the place that the workstation has it at.
func (l *loading) shownIn(err error, file string) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return fmt.Sprintf("%s cannot be read: %v", l.shown(file), at.Err)
	}
	return err.Error()
}

// tell takes findings as problems and warnings.
func (l *loading) tell(findings []stack.Finding) {
	for _, f := range findings {
		p := spec.Problem{File: f.File, Line: f.Line, Column: f.Column, Path: f.Path, Message: f.Message}
		if f.Warning {
			l.warnings = append(l.warnings, p)
		} else {
			l.problems = append(l.problems, p)
		}
	}
}

// known is what stacks find in the cluster.
func (l *loading) known() *stack.Cluster {
	if l.alone {
		return nil
	}
	w := &l.cluster.Workloads
	known := &stack.Cluster{Nodes: nodesFor(l.cluster, archByName), Registry: w.Registry}
	for _, n := range w.Networks {
		known.Networks = append(known.Networks, n.Name)
	}
	for _, s := range w.Secrets {
		known.Secrets = append(known.Secrets, s.Name)
	}
	for _, c := range w.Configs {
		known.Configs = append(known.Configs, c.Name)
	}
	return known
}

// contents reads where cluster.yaml has secrets or configs from, by their names.
func (l *loading) contents(all []spec.Content, kind string, most int, names bool) map[string][]byte {
	read := map[string][]byte{}
	for _, c := range all {
		if c.Pushed {
			continue
		}
		content, err := ContentOf(c, most)
		var unset *UnsetError
		switch {
		case errors.As(err, &unset) && names:
			continue
		case err != nil:
			p := c.Place
			p.Message = fmt.Sprintf("the %s %s: %s", kind, c.Name, l.shownIn(err, c.File))
			l.problems = append(l.problems, p)
			continue
		}
		read[c.Name] = content
	}
	return read
}

// An UnsetError says that the variable is not set that a secret or config comes from.
type UnsetError struct{ Variable string }

func (e *UnsetError) Error() string {
	return fmt.Sprintf("the variable %s is not set: set it for this command (%s=… hatchery …), or say `pushed` in its place", e.Variable, e.Variable)
}

// ContentOf reads a secret's or a config's content from where cluster.yaml has it.
func ContentOf(c spec.Content, most int) ([]byte, error) {
	if c.Environment != "" {
		value, set := os.LookupEnv(c.Environment)
		if !set {
			return nil, &UnsetError{c.Environment}
		}
		return sized([]byte(value), most)
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, errors.New("it is no file"))
	}
	content, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	return sized(content, most)
}

// sized refuses what a swarm would.
func sized(content []byte, most int) ([]byte, error) {
	switch {
	case len(content) == 0:
		return nil, errors.New("it is empty, and a swarm takes none that is")
	case len(content) > most:
		return nil, fmt.Errorf("it has more than the %d bytes that a swarm takes", most)
	}
	return content, nil
}

// collisions tell of what a stack makes under a name that cluster.yaml gives away.
func (l *loading) collisions() {
	w := &l.cluster.Workloads
	taken := func(s *stack.Stack, kind, name string, is bool) {
		if is {
			l.problems = append(l.problems, spec.Problem{File: s.File, Path: kind, Message: fmt.Sprintf(
				"it makes %s, which cluster.yaml declares too: say `external: true` in the stack file, or call one otherwise", name)})
		}
	}
	has := func(all []spec.Content, name string) bool {
		return slices.ContainsFunc(all, func(c spec.Content) bool { return c.Name == name })
	}
	for _, s := range l.stacks {
		for _, n := range s.Networks {
			taken(s, "networks", n.Name, slices.ContainsFunc(w.Networks, func(d spec.Network) bool { return d.Name == n.Name }))
		}
		for _, x := range s.Secrets {
			taken(s, "secrets", x.Spec.Name, has(w.Secrets, x.Spec.Name))
		}
		for _, x := range s.Configs {
			taken(s, "configs", x.Spec.Name, has(w.Configs, x.Spec.Name))
		}
	}
}

// settled is what the controller is told.
func (l *loading) settled() (*Workloads, error) {
	w := &l.cluster.Workloads
	out := &Workloads{Declared: declared.New(w.WaitFor, w.ArchGuard), Secrets: map[string][]byte{}, Warnings: l.warnings}
	for _, n := range w.Networks {
		out.Declared.Networks = append(out.Declared.Networks, declared.Network{
			Name: n.Name, Attachable: n.Attachable, Internal: n.Internal, Encrypted: n.Encrypted, Subnet: n.Subnet, Labels: n.Labels,
		})
	}
	for _, s := range w.Secrets {
		out.Declared.Secrets = append(out.Declared.Secrets, declared.Secret{Name: s.Name, Pushed: s.Pushed})
	}
	maps.Copy(out.Secrets, l.secrets)
	for _, c := range w.Configs {
		out.Declared.Configs = append(out.Declared.Configs, declared.Config{Name: c.Name, Pushed: c.Pushed, Content: l.configs[c.Name]})
	}
	for _, s := range l.stacks {
		maps.Copy(out.Secrets, out.Declared.Add(s))
	}
	if len(l.stacks) > 0 {
		out.Declared.CPUAllow = l.allowances()
	}
	if err := out.Declared.Check(); err != nil {
		return nil, &InputError{err}
	}
	return out, nil
}

// entries are the files with which the controller is told what to run; none where it
// runs nothing.
func (w *Workloads) entries() ([]overlays.Entry, error) {
	if w.Declared.Empty() {
		return nil, nil
	}
	content, err := w.Declared.Marshal()
	if err != nil {
		return nil, &InputError{err}
	}
	const from = "cluster.yaml: workloads"
	entries := []overlays.Entry{{Path: nodefile.Workloads, Mode: 0o600, Content: content, Secret: true, From: from}}
	if len(w.Secrets) > 0 {
		entries = append(entries, overlays.Entry{Path: nodefile.SecretsDir, Mode: fs.ModeDir | 0o700, From: from})
	}
	for _, name := range slices.Sorted(maps.Keys(w.Secrets)) {
		entries = append(entries, overlays.Entry{
			Path: nodefile.SecretsDir + "/" + name, Mode: 0o600, Content: w.Secrets[name], Secret: true, From: "cluster.yaml: secrets." + name,
		})
	}
	return entries, nil
}

// toldWorkloads is what becomes of workloads in a build.
type toldWorkloads struct {
	entries  []overlays.Entry
	entry    *WorkloadsEntry
	warnings []string
}

// workloads judges what was read by what the targets' bases are. Where the controller
// is none of them, nothing is made of it, and no registry is asked.
func (g *ground) workloads(ctx context.Context, l *loading, targets []spec.Target, o Options) (*toldWorkloads, error) {
	if !hasController(targets) {
		return &toldWorkloads{}, nil
	}
	architecture := archByName
	if len(l.stacks) > 0 {
		var err error
		if architecture, err = g.architectures(targets, o.AssumeRelease); err != nil {
			return nil, err
		}
	}
	if err := l.guard(ctx, WorkloadOptions{Cache: o.Cache, Offline: o.Offline, Progress: o.Progress}, architecture); err != nil {
		return nil, err
	}
	w, err := l.settled()
	if err != nil {
		return nil, err
	}
	entries, err := w.entries()
	return &toldWorkloads{entries, w.entry(), w.notes()}, err
}

func hasController(targets []spec.Target) bool {
	return slices.ContainsFunc(targets, func(t spec.Target) bool { return t.Slot == 0 })
}

// A WorkloadsEntry says what the controller was told to run: names, and nothing that
// is in them.
type WorkloadsEntry struct {
	WaitFor   string         `json:"wait_for"`
	ArchGuard string         `json:"arch_guard"`
	Stacks    []StackEntry   `json:"stacks,omitempty"` // in order
	Networks  []string       `json:"networks,omitempty"`
	Secrets   []ContentEntry `json:"secrets,omitempty"` // the stacks' own too
	Configs   []ContentEntry `json:"configs,omitempty"`
}

// A StackEntry is a stack and its services.
type StackEntry struct {
	Name     string         `json:"name"`
	File     string         `json:"file"`
	Services []ServiceEntry `json:"services"`
}

// A ServiceEntry is a service and what it runs.
type ServiceEntry struct {
	Name        string   `json:"name"` // in the swarm
	Image       string   `json:"image"`
	Constraints []string `json:"constraints,omitempty"`
}

// A ContentEntry is a secret or a config.
type ContentEntry struct {
	Name string `json:"name"`
	// Pushed: it is not in the image.
	Pushed bool `json:"pushed,omitempty"`
}

// entry is what the manifest says; nil where nothing runs.
func (w *Workloads) entry() *WorkloadsEntry {
	if w.Declared.Empty() {
		return nil
	}
	d := w.Declared
	e := &WorkloadsEntry{WaitFor: d.WaitFor, ArchGuard: d.ArchGuard}
	for _, s := range d.Stacks {
		entry := StackEntry{Name: s.Name, File: s.File}
		for _, x := range s.Services {
			entry.Services = append(entry.Services, ServiceEntry{x.Spec.Name, x.Image(), x.Constraints()})
		}
		e.Stacks = append(e.Stacks, entry)
		for _, c := range s.Configs {
			e.Configs = append(e.Configs, ContentEntry{Name: c.Spec.Name})
		}
		for _, n := range s.Networks {
			e.Networks = append(e.Networks, n.Name)
		}
	}
	for _, n := range d.Networks {
		e.Networks = append(e.Networks, n.Name)
	}
	for _, c := range d.Configs {
		e.Configs = append(e.Configs, ContentEntry{c.Name, c.Pushed})
	}
	names := d.SecretNames()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		e.Secrets = append(e.Secrets, ContentEntry{name, names[name]})
	}
	slices.Sort(e.Networks)
	slices.SortFunc(e.Configs, func(a, b ContentEntry) int { return cmp.Compare(a.Name, b.Name) })
	return e
}

// notes are the warnings as a build has them.
func (w *Workloads) notes() []string {
	var notes []string
	for _, p := range w.Warnings {
		notes = append(notes, p.String())
	}
	return notes
}

// nodesFor are a cluster's nodes as the swarm will have them, for what the
// architecture of a base is.
func nodesFor(c *spec.Cluster, architecture func(spec.Base) string) []placement.Node {
	var nodes []placement.Node
	for _, t := range c.Targets() {
		n := placement.Node{
			Name: t.Name, Hostname: t.Hostname, Role: placement.Manager, Addr: clusterctrl.ControllerAddr(),
			Arch: processorOf(t, architecture(t.Base)), Labels: labelsOf(c, t),
		}
		if t.Slot != 0 {
			n.Role, n.Addr = placement.Worker, clusterctrl.SlotAddr(t.Slot)
		}
		if len(c.Controllers) > 0 { // in the swarm by what the LAN's DHCP server gives them
			if n.Addr = (netip.Addr{}); t.Slot == 0 {
				n.Addr = c.Controllers[t.HAT].Address.Addr()
			}
		}
		for label, value := range map[string]string{"hatchery.slot": t.Name, "hatchery.model": t.Model, placement.LabelArch: n.Arch} {
			if value != "" {
				n.Labels[label] = value
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}
