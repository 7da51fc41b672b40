package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/cpucheck"
	"hatchery/imagebuilder/difference"
	"hatchery/imagebuilder/diskimage"
	"hatchery/imagebuilder/dockerlayer"
	"hatchery/imagebuilder/preload"
	"hatchery/internal/cpu"
)

// cpuReport is what `inspect cpu` prints with --json.
type cpuReport struct {
	Image        string       `json:"image"`
	Architecture string       `json:"architecture"` // armel, armhf, arm64; "" where the image does not say
	Model        string       `json:"model"`
	Programs     int          `json:"programs"`
	NotRun       int          `json:"not_run"` // kernel modules, objects, firmware
	Counts       []cpuCount   `json:"counts"`
	Refused      int          `json:"refused"`
	Findings     []cpuFinding `json:"findings"` // the refused ones first, then those allowed by an exception, then those with a note
	Unread       []cpuFinding `json:"unread"`
}

type cpuCount struct {
	Machine string `json:"machine"`
	Level   string `json:"level,omitempty"` // ARMv6
	Float   string `json:"float,omitempty"` // soft, hard
	Files   int    `json:"files"`
}

type cpuFinding struct {
	Package string          `json:"package,omitempty"`
	Path    difference.Text `json:"path"`
	Outcome string          `json:"outcome"` // too new, wrong float ABI, wrong machine, unknown; fits for a note; unread
	Level   string          `json:"level,omitempty"`
	Arch    string          `json:"tag_cpu_arch,omitempty"`
	GoArm   string          `json:"goarm,omitempty"`
	Go      string          `json:"go,omitempty"`
	Reason  string          `json:"reason"`
	Allowed string          `json:"allowed,omitempty"` // why it may pass
}

func cpuFindingOf(f cpucheck.Finding) cpuFinding {
	p := f.Program
	out := cpuFinding{
		Package: f.From, Path: difference.Text(f.Path), Outcome: f.Verdict.Outcome.String(), Arch: p.Arch, GoArm: p.GoArm, Go: p.GoVersion,
		Reason: f.Verdict.Reason + f.Verdict.Note, Allowed: f.Allowed,
	}
	if p.Level != (cpu.Level{}) {
		out.Level = p.Level.String()
	}
	return out
}

// cpu says for which processors the programs of an image are, and which of
// them do not run on a model.
func (i *inspection) cpu(image *imagebuilder.OpenedImage, args []string) error {
	model := i.model
	if model != "" && !slices.Contains(cpu.Models(), model) {
		return usageError{fmt.Errorf("--model %q is none of %s", model, strings.Join(cpu.Models(), ", "))}
	}
	tree, top, err := i.at(image, append(args, "/")[0])
	if err != nil {
		return err
	}
	if model == "" {
		// What it was built for, if hatchery did.
		if model = imagebuilder.ModelOf(tree); !slices.Contains(cpu.Models(), model) {
			model = "auto"
		}
	}
	n, err := diskimage.Stat(tree, top)
	if err != nil {
		return inputError(image, err)
	}
	owners, err := cpucheck.OwnersOf(tree)
	if err != nil {
		return fmt.Errorf("cannot read what packages %s has: %w", image.Name, err)
	}
	architecture := image.Release().Architecture
	target, err := cpucheck.TargetFor(model, architecture, treeRoot{tree})
	if err != nil {
		return fmt.Errorf("cannot tell for which processor %s is: %w", image.Name, err)
	}
	out := cpuReport{Image: image.Name, Architecture: architecture, Model: model, Counts: []cpuCount{}, Findings: []cpuFinding{}, Unread: []cpuFinding{}}
	unread := func(path string, err error) {
		out.Unread = append(out.Unread, cpuFinding{Path: difference.Text(path), Outcome: "unread", Reason: err.Error()})
	}
	sets := []cpucheck.Set{{Target: target, Files: cpucheck.OfTree(tree, n.Path, owners, unread)}}
	if below(dockerlayer.PreloadFile, n.Path) {
		// They wait in one file for the first boot to load them.
		sets = append(sets, cpucheck.Set{Target: target.Container(), Files: ofPreloaded(tree, unread)})
	}
	inTurn(sets)
	report, err := cpucheck.Check(i.command.Context(), sets, cpucheck.Options{})
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return inputError(image, err)
	}
	if i.json {
		return i.cpuJSON(out, report)
	}
	i.cpuText(out, report, target)
	return nil
}

// below says whether a file lies in a folder, or is what top names.
func below(name, top string) bool {
	return name == top || strings.HasPrefix(name, strings.TrimSuffix(top, "/")+"/")
}

// inTurn has the sets visit their files one after the other: an image is read
// by one goroutine.
func inTurn(sets []cpucheck.Set) {
	var mu sync.Mutex
	for n, set := range sets {
		sets[n].Files = func(ctx context.Context, visit func(cpucheck.File) error) error {
			mu.Lock()
			defer mu.Unlock()
			return set.Files(ctx, visit)
		}
	}
}

// ofPreloaded visits the files of the container images that the image's first
// boot is to load, if there are any. An archive that cannot be read is told to
// unread.
func ofPreloaded(tree diskimage.Tree, unread func(path string, err error)) func(context.Context, func(cpucheck.File) error) error {
	return func(ctx context.Context, visit func(cpucheck.File) error) error {
		n, err := tree.Lstat(dockerlayer.PreloadFile)
		if err != nil || !n.Mode.IsRegular() {
			return nil // what is wrong with its folder is told with all the others
		}
		f, err := tree.Open(dockerlayer.PreloadFile)
		if err != nil {
			return nil
		}
		defer f.Close()
		content, ok := f.(io.ReaderAt)
		if !ok {
			return fmt.Errorf("cannot read %s at any place", dockerlayer.PreloadFile)
		}
		var stopped error // by who is told of the files
		err = preload.ArchiveFiles(ctx, content, n.Size, func(image, path string, size int64, r io.ReaderAt) error {
			stopped = visit(cpucheck.File{From: image, Path: path, Size: size, Content: r})
			return stopped
		})
		var wrong *preload.InputError
		if stopped == nil && errors.As(err, &wrong) {
			unread(dockerlayer.PreloadFile, err)
			return nil
		}
		return err
	}
}

func (i *inspection) cpuJSON(out cpuReport, r *cpucheck.Report) error {
	out.Programs, out.NotRun, out.Refused = r.Programs, r.NotRun, r.RefusedFiles
	for _, c := range r.Counts {
		count := cpuCount{Machine: c.Machine, Files: c.Files}
		if c.Arm {
			count.Level = c.Level.String()
		}
		count.Float, _, _ = strings.Cut(c.Float.String(), " ")
		out.Counts = append(out.Counts, count)
	}
	for _, f := range slices.Concat(r.Refused, r.Allowed, r.Noted) {
		out.Findings = append(out.Findings, cpuFindingOf(f))
	}
	return printJSON(i.out(), out)
}

func (i *inspection) cpuText(out cpuReport, r *cpucheck.Report, target cpu.Target) {
	for _, f := range out.Unread {
		fmt.Fprintf(i.command.ErrOrStderr(), "hatchery: %s: %s\n", shown(string(f.Path)), shown(f.Reason))
	}
	fmt.Fprintf(i.out(), "%s: %s", out.Image, count(r.Programs, "program"))
	if out.Architecture != "" {
		fmt.Fprintf(i.out(), ", %s", out.Architecture)
	}
	fmt.Fprintln(i.out())
	if len(r.Counts) > 0 {
		fmt.Fprintln(i.out())
		t := tabwriter.NewWriter(i.out(), 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "FILES\tFOR\tNEEDS\tFLOAT")
		for _, c := range r.Counts {
			level, float := "-", "-"
			if c.Arm {
				level = c.Level.String()
			}
			if c.Float != cpu.FloatUnknown {
				float, _, _ = strings.Cut(c.Float.String(), " ")
			}
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\n", c.Files, shown(c.Machine), level, float)
		}
		t.Flush()
	}
	if r.NotRun > 0 {
		fmt.Fprintf(i.out(), "\n%s beside them that this processor does not run: kernel modules, objects, firmware\n", count(r.NotRun, "ELF file"))
	}
	fmt.Fprintln(i.out())
	list := func(findings []cpucheck.Finding, all int) {
		for _, f := range findings {
			line := shown(f.String())
			if f.Allowed != "" {
				line += " (allowed: " + f.Allowed + ")"
			}
			fmt.Fprintf(i.out(), "  %s\n", line)
		}
		if more := all - len(findings); more > 0 {
			fmt.Fprintf(i.out(), "  … and %d more\n", more)
		}
	}
	const most = 20
	shortened := func(findings []cpucheck.Finding) []cpucheck.Finding {
		if i.all {
			return findings
		}
		return findings[:min(most, len(findings))]
	}
	has := strings.ToUpper(target.String()[:1]) + target.String()[1:]
	switch {
	case r.RefusedFiles > 0:
		fmt.Fprintf(i.out(), "%s: %s not fit.\n", has, plural(r.RefusedFiles, "1 program does", "%d programs do"))
		list(shortened(r.Refused), r.RefusedFiles)
	case r.AllowedFiles > 0:
		fmt.Fprintf(i.out(), "%s: all programs fit, or may pass by an exception.\n", has)
	case r.Programs > 0:
		fmt.Fprintf(i.out(), "%s: all programs fit.\n", has)
	}
	if r.AllowedFiles > 0 {
		fmt.Fprintf(i.out(), "\n%s by an exception:\n", plural(r.AllowedFiles, "1 may pass", "%d may pass"))
		list(shortened(r.Allowed), r.AllowedFiles)
	}
	if r.NotedFiles > 0 {
		fmt.Fprintf(i.out(), "\n%s, with a note:\n", plural(r.NotedFiles, "1 fits", "%d fit"))
		list(shortened(r.Noted), r.NotedFiles)
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf(many, n)
}

// treeRoot reads whole files of an image.
type treeRoot struct{ diskimage.Tree }

func (t treeRoot) ReadFile(name string) ([]byte, error) {
	const largest = 16 << 20
	return diskimage.ReadFile(t.Tree, name, largest)
}
