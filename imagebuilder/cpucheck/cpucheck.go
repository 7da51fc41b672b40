// Package cpucheck judges every program that gets into an image against the
// processor that it is to run on: those of packages, of container images, of
// the agent and of the user's own file trees. See internal/cpu for what a
// program says of itself.
//
// Not judged is what the processor never runs: see [cpu.Kind], and what lies
// where firmware for other processors and the parts of kernels lie (in
// /lib/firmware, /lib/modules and /boot): an image has kernels and modules for
// several boards, and the firmware takes the one that fits.
//
// Archives of objects (.a) are not looked into: what a compiler on the node
// makes of them is no program yet, and the shared objects beside them tell of
// a wrong package well enough. Neither are packed files.
package cpucheck

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"hatchery/internal/cpu"
	"hatchery/internal/spec"
)

// A File is one regular file of a set.
type File struct {
	// From is what brings the file: a package, a container image, the name of
	// the user's tree; "" for what nothing is known of.
	From string
	// Path is absolute in the image or, of a container image, in that.
	Path    string
	Size    int64
	Content io.ReaderAt // needed only until visit returns
}

// A Set is a number of files for one target.
type Set struct {
	Target cpu.Target
	// Files calls visit for every regular file, from one goroutine. Files of
	// other sets are visited meanwhile.
	Files func(ctx context.Context, visit func(File) error) error
}

// Options say how the check goes about it.
type Options struct {
	// Allow are the user's exceptions; hatchery's own always count.
	Allow []spec.CPUException
	// Visited is called for every ELF file, from several goroutines in turn.
	Visited func(File, cpu.Program, cpu.Verdict)
}

// A Finding is a file that is worth telling of.
type Finding struct {
	From    string
	Path    string
	Target  cpu.Target
	Program cpu.Program
	Verdict cpu.Verdict
	// Allowed is the reason for which it may pass all the same.
	Allowed string
}

// Count says how many programs need the same.
type Count struct {
	Machine string // as people call it: "32-bit ARM"
	// Arm says that the level and the calling convention mean something.
	Arm   bool
	Level cpu.Level
	Float cpu.Float
	Files int
}

// A Report is what came of a check.
type Report struct {
	Programs int // what was judged
	NotRun   int // ELF files that the processor is not asked to run
	Counts   []Count

	// Refused must not get into the image. Allowed would be refused but for an
	// exception. Noted fit, but there is something to tell. All are sorted, and
	// bounded in number; the counters below are not.
	Refused, Allowed, Noted []Finding

	RefusedFiles, AllowedFiles, NotedFiles int
	// Unused are the user's exceptions that no file needed.
	Unused []spec.CPUException
}

// mostFindings bounds each list of a report: a container image can hold any
// number of wrong files.
const mostFindings = 2000

// Check judges the files of all sets, side by side. An error is that of a set,
// or of reading a file, or the context's; what does not fit is in the report.
func Check(ctx context.Context, sets []Set, o Options) (*Report, error) {
	own, err := exceptions()
	if err != nil {
		return nil, err
	}
	c := &checker{own: own, options: o, used: make([]bool, len(o.Allow)), counts: map[Count]int{}, report: &Report{}}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for _, set := range sets {
		group.Go(func() error {
			err := set.Files(ctx, func(f File) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return c.file(set.Target, f)
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return c.finish(), nil
}

type checker struct {
	own     []spec.CPUException
	options Options

	mu     sync.Mutex
	used   []bool
	counts map[Count]int
	report *Report
}

func (c *checker) file(target cpu.Target, f File) error {
	p, err := cpu.Inspect(f.Content, f.Size)
	if err != nil {
		return fmt.Errorf("cannot read %s for which processor it is: %w", f.name(), err)
	}
	if p.Kind == cpu.NotELF {
		return nil
	}
	v := target.Judge(p)
	if v.Outcome.Refused() && elsewhere(f.Path) {
		v = cpu.Verdict{Outcome: cpu.NotRun}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options.Visited != nil {
		c.options.Visited(f, p, v)
	}
	r := c.report
	if v.Outcome == cpu.NotRun {
		r.NotRun++
		return nil
	}
	r.Programs++
	count := Count{Machine: p.MachineName(), Arm: p.Machine == elf.EM_ARM || p.Machine == elf.EM_AARCH64}
	if count.Arm {
		count.Level, count.Float = p.Level, p.Float
	}
	c.counts[count]++
	finding := Finding{From: f.From, Path: f.Path, Target: target, Program: p, Verdict: v}
	switch {
	case v.Outcome.Refused():
		if finding.Allowed = c.allowed(f); finding.Allowed != "" {
			r.AllowedFiles++
			r.Allowed = add(r.Allowed, finding)
			return nil
		}
		r.RefusedFiles++
		r.Refused = add(r.Refused, finding)
	case v.Note != "":
		r.NotedFiles++
		r.Noted = add(r.Noted, finding)
	}
	return nil
}

// add keeps the first findings by name, so that the same ones are told of
// whatever the order in which they came.
func add(list []Finding, f Finding) []Finding {
	at, _ := slices.BinarySearchFunc(list, f, compare)
	if at == mostFindings {
		return list
	}
	list = slices.Insert(list, at, f)
	return list[:min(len(list), mostFindings)]
}

func compare(a, b Finding) int {
	if n := strings.Compare(a.From, b.From); n != 0 {
		return n
	}
	if n := strings.Compare(a.Path, b.Path); n != 0 {
		return n
	}
	return strings.Compare(a.Target.Model, b.Target.Model)
}

// allowed gives the reason for which a file may pass; "" where it may not.
func (c *checker) allowed(f File) string {
	reason := ""
	for _, name := range spellings(f.Path) {
		for i, e := range c.options.Allow {
			if e.Covers(f.From, name) {
				c.used[i] = true
				if reason == "" {
					reason = e.Reason
				}
			}
		}
		for _, e := range c.own {
			if reason == "" && e.Covers(f.From, name) {
				reason = e.Reason
			}
		}
	}
	return reason
}

func (c *checker) finish() *Report {
	r := c.report
	for count, n := range c.counts {
		count.Files = n
		r.Counts = append(r.Counts, count)
	}
	slices.SortFunc(r.Counts, func(a, b Count) int {
		switch {
		case a.Arm != b.Arm:
			return map[bool]int{true: -1, false: 1}[a.Arm]
		case a.Machine != b.Machine:
			return strings.Compare(a.Machine, b.Machine)
		case a.Level.Above(b.Level):
			return 1
		case b.Level.Above(a.Level):
			return -1
		}
		return int(a.Float) - int(b.Float)
	})
	for i, used := range c.used {
		if !used {
			r.Unused = append(r.Unused, c.options.Allow[i])
		}
	}
	return r
}

// Err gives the error of a report with refused files, a *RefusedError.
func (r *Report) Err() error {
	if r.RefusedFiles == 0 {
		return nil
	}
	return &RefusedError{Findings: r.Refused, Files: r.RefusedFiles}
}

// elsewhere says whether a path is for what the system's processor does not
// run as a program.
func elsewhere(name string) bool {
	return slices.ContainsFunc([]string{"/lib/firmware/", "/usr/lib/firmware/", "/lib/modules/", "/usr/lib/modules/", "/boot/"},
		func(dir string) bool { return strings.HasPrefix(name, dir) })
}

// spellings gives the names that a file has before and after bin, lib and sbin
// became links into /usr.
func spellings(name string) []string {
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(name, dir) {
			return []string{name, "/usr" + name}
		}
		if strings.HasPrefix(name, "/usr"+dir) {
			return []string{name, strings.TrimPrefix(name, "/usr")}
		}
	}
	return []string{name}
}

func (f File) name() string {
	if f.From == "" {
		return f.Path
	}
	return f.From + ": " + f.Path
}

// A RefusedError says which files do not run where they are to. It is a
// mistake of what was put together, not a failure.
type RefusedError struct {
	Findings []Finding // sorted by From and Path; the first ones, where there are very many
	Files    int       // how many there are
}

// Error names the files, with what each needs and what there is, and the
// remedies.
func (e *RefusedError) Error() string {
	const most = 12
	var b strings.Builder
	if e.Files == 1 && len(e.Findings) == 1 {
		fmt.Fprintf(&b, "%s", e.Findings[0])
	} else {
		fmt.Fprintf(&b, "%d files do not run on the processor that they are for:", e.Files)
		for _, f := range e.Findings[:min(most, len(e.Findings))] {
			fmt.Fprintf(&b, "\n  %s", f)
		}
		if e.Files > most {
			fmt.Fprintf(&b, "\n  … and %d more", e.Files-most)
		}
	}
	if len(e.Findings) > 0 {
		fmt.Fprintf(&b, "\n%s", e.remedy())
	}
	return b.String()
}

// remedy says what can be done about the first finding, which as a rule is
// what ails the others, too.
func (e *RefusedError) remedy() string {
	f := e.Findings[0]
	what := "take one that is built for it"
	switch f.Verdict.Outcome {
	case cpu.TooNew, cpu.WrongMachine:
		what = "take one that is built for " + f.Target.Level.String()
		if f.Program.GoVersion != "" {
			what += fmt.Sprintf(" (in Go: GOOS=linux GOARCH=arm GOARM=%d)", min(7, f.Target.Level.Major))
		}
		if f.Target.Level.Major == 6 {
			what += "; of packages, Raspbian's are ARMv6, Debian's armhf are ARMv7"
		}
	case cpu.WrongABI:
		what = "take one from the image's own sources, or a static one"
	case cpu.Unknown:
		what = "make sure what it was built for, or take one that says it"
	}
	name := f.Path
	if f.From != "" && !strings.HasPrefix(f.From, "/") {
		name = f.From + ":" + f.Path
	}
	return fmt.Sprintf("%s; where a file never runs, or asks the processor first, cluster.yaml can let it pass: cpu: {allow: {%q: why it may}}", what, name)
}

// String is the finding as a sentence.
func (f Finding) String() string {
	name := File{From: f.From, Path: f.Path}.name()
	if f.Verdict.Reason == "" {
		return name + " " + f.Verdict.Note
	}
	return name + " " + f.Verdict.Reason
}

// Root is what the system's own programs are read from: an image's root file
// system.
type Root interface {
	ReadFile(path string) ([]byte, error)
}

// TargetFor gives the target of a model for an image of the given architecture
// (armel, armhf, arm64). The model auto stands for all models on which the
// image starts, as its dynamic loader tells.
func TargetFor(model, architecture string, root Root) (cpu.Target, error) {
	t := cpu.ForModel(model, architecture)
	if model != "auto" {
		return t, nil
	}
	for _, loader := range []string{"/lib/ld-linux-armhf.so.3", "/lib/ld-linux.so.3"} {
		data, err := root.ReadFile(loader)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return t, err
		}
		p, err := cpu.Inspect(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return t, err
		}
		t = t.AtLeast(p)
	}
	return t, nil
}
