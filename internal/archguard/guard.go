package archguard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hatchery/internal/cpu"
	"hatchery/internal/stack"
	"hatchery/internal/stack/placement"
)

// A Mode is what becomes of a service that could land on a node whose processor
// its image does not fit.
type Mode string

// The modes.
const (
	Error Mode = "error" // it is refused
	Fix   Mode = "fix"   // it is kept off those nodes
	Off   Mode = "off"   // nobody looks
)

// Options are what Check goes by.
type Options struct {
	Mode  Mode
	Nodes []placement.Node
	Read  Reader
	// Allowed are programs that are known to be no trouble, though they are
	// marked for another processor; nil allows none.
	Allowed func(ref, path string) bool
}

// A Report is what Check found.
type Report struct {
	// Findings are in the order of the services. In the mode Fix, what is mended
	// is a warning; so is, in each mode, an image that cannot be read.
	Findings []stack.Finding
	// Added are the constraints that services get in the mode Fix, by the
	// services' names in the swarm.
	Added map[string][]string
}

// Broken says whether a service must not be run as it is.
func (r Report) Broken() bool {
	return slices.ContainsFunc(r.Findings, func(f stack.Finding) bool { return !f.Warning })
}

// Check judges services, each by the nodes that it may run on. An error is of
// the context alone.
func Check(ctx context.Context, services []stack.Service, o Options) (Report, error) {
	r := Report{Added: map[string][]string{}}
	if o.Mode == Off {
		return r, nil
	}
	images := map[string]*judged{}
	for _, s := range services {
		ref := s.Image()
		if ref == "" {
			continue
		}
		if images[ref] == nil {
			image, err := o.Read.Image(ctx, ref)
			if ctx.Err() != nil {
				return r, ctx.Err()
			}
			images[ref] = &judged{ref: ref, image: image, err: err, o: o, faults: map[string]string{}}
		}
		if err := r.service(ctx, s, images[ref], o); err != nil {
			return r, err
		}
	}
	return r, nil
}

// A judged is an image and what is known of its programs so far.
type judged struct {
	ref    string
	image  Image
	err    error
	o      Options
	faults map[string]string // by variant and processor: a program that does not run there
}

func (r *Report) service(ctx context.Context, s stack.Service, image *judged, o Options) error {
	if image.err != nil {
		text := "cannot be read"
		if errors.Is(image.err, ErrNotFound) {
			text = "is in no registry and no archive that was asked"
		}
		r.Findings = append(r.Findings, s.Finding(true, fmt.Sprintf("%s %s, so nobody knows what processor it is for: %v", image.ref, text, image.err), "image"))
		return nil
	}
	constraints, _ := placement.ParseAll(s.Constraints())
	var good, bad []placement.Node
	var why string
	for _, n := range placement.Candidates(constraints, o.Nodes) {
		if n.Architecture() == "" {
			r.Findings = append(r.Findings, s.Finding(true, fmt.Sprintf("nothing says what processor %s has: it is taken for one that the image fits", n), "image"))
			good = append(good, n)
			continue
		}
		fault, err := image.on(ctx, n)
		if err != nil {
			return err
		}
		if fault == "" {
			good = append(good, n)
			continue
		}
		bad = append(bad, n)
		if why == "" {
			why = fault
		}
	}
	if len(bad) == 0 {
		return nil
	}
	added := Separating(good, bad)
	var remedies []string
	if len(added) > 0 {
		remedies = append(remedies, fmt.Sprintf("keep the service off with deploy.placement.constraints: [%s]", strings.Join(added, ", ")))
	}
	remedies = append(remedies, "take an image that has "+strings.Join(platforms(bad), " and "))
	text := fmt.Sprintf("it may land on %s, and %s: %s", nodesOf(bad), why, strings.Join(remedies, ", or "))
	drained := !slices.ContainsFunc(bad, func(n placement.Node) bool { return n.Availability != "drain" })
	switch {
	case o.Mode == Fix && len(added) > 0:
		r.Added[s.Spec.Name] = added
		r.Findings = append(r.Findings, s.Finding(true, fmt.Sprintf("it may land on %s, and %s: the constraints [%s] are added", nodesOf(bad), why, strings.Join(added, ", ")), "image"))
	case drained:
		r.Findings = append(r.Findings, s.Finding(true, text+" (for now nothing lands there: drained)", "image"))
	default:
		r.Findings = append(r.Findings, s.Finding(false, text, "image"))
	}
	return nil
}

// on says why an image does not run on a node; "" where it does.
func (j *judged) on(ctx context.Context, n placement.Node) (string, error) {
	// The engine takes the best variant that there is by name. An image that is
	// but one it takes whatever that says.
	var chosen *Variant
	for i, v := range j.image.Variants {
		if !runs(n, v.Platform) && (!j.image.Single || v.Programs == nil || !v.Platform.ambiguous()) {
			continue
		}
		if chosen == nil || rank(n, v.Platform) < rank(n, chosen.Platform) {
			chosen = &j.image.Variants[i]
		}
	}
	if chosen == nil {
		return j.lacks(n), nil
	}
	if chosen.Programs == nil {
		return "", nil
	}
	return j.programs(ctx, n, *chosen)
}

// rank orders the variants that a node runs: 64 bits first, then the latest
// version.
func rank(n placement.Node, p Platform) int {
	p = p.normal()
	if p.Architecture != "arm" {
		return -1
	}
	return slices.Index(arm32("arm64"), p.Variant)
}

// lacks says what an image has, in place of what a node needs.
func (j *judged) lacks(n placement.Node) string {
	var has []string
	ambiguous, seven := false, false
	for _, v := range j.image.Variants {
		has = append(has, v.Platform.String())
		ambiguous = ambiguous || v.Platform.ambiguous()
		seven = seven || v.Platform.normal() == Platform{"linux", "arm", "v7"}
	}
	slices.Sort(has)
	has = slices.Compact(has)
	text := fmt.Sprintf("%s has nothing for %s: it has %s", j.ref, processor(n), strings.Join(has, ", "))
	if len(has) == 0 {
		text = fmt.Sprintf("%s has nothing for any processor", j.ref)
	}
	switch {
	case ambiguous && n.Architecture() == "armv6":
		text += " (linux/arm without a variant says nothing of the version; Docker takes it for v7, and programs for ARMv7 die on ARMv6 without a word)"
	case seven && n.Architecture() == "armv6":
		text += " (programs for ARMv7 die on ARMv6 without a word)"
	}
	return text
}

var errEnough = errors.New("enough is known")

// programs looks at what is in a variant.
func (j *judged) programs(ctx context.Context, n placement.Node, v Variant) (string, error) {
	t, known := target(n)
	if !known {
		return "", nil
	}
	key := v.Platform.String() + " on " + n.Architecture() + " " + t.Model
	if fault, seen := j.faults[key]; seen {
		return fault, nil
	}
	fault := ""
	err := v.Programs(ctx, func(path string, p cpu.Program) error {
		verdict := t.Judge(p)
		// What does not say what it needs is let through: the manifest stands.
		if verdict.Outcome != cpu.TooNew && verdict.Outcome != cpu.WrongMachine || j.o.Allowed != nil && j.o.Allowed(j.ref, path) {
			return nil
		}
		fault = fmt.Sprintf("%s calls itself %s, but its %s is another matter: %s", j.ref, v.Platform, path, verdict.Reason)
		if p.GoArm != "" && n.Architecture() == "armv6" {
			fault += " (built by Go without GOARM=6, which `docker build --platform` does not set: ENV GOARM=6 before go build)"
		}
		return errEnough
	})
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil && !errors.Is(err, errEnough) {
		fault = fmt.Sprintf("the layers of %s cannot be read: %v", j.ref, err)
	}
	j.faults[key] = fault
	return fault, nil
}

// Separating are the constraints that hold for all of good and for none of bad;
// none where good is empty.
func Separating(good, bad []placement.Node) []string {
	if len(good) == 0 || len(bad) == 0 {
		return nil
	}
	labels := func(nodes []placement.Node, label string) []string {
		var values []string
		for _, n := range nodes {
			values = append(values, n.Labels[label])
		}
		slices.Sort(values)
		return slices.Compact(values)
	}
	for _, label := range []string{placement.LabelArch, "hatchery.model", "hatchery.slot"} {
		g, b := labels(good, label), labels(bad, label)
		if slices.Contains(b, "") || slices.Contains(g, "") || slices.ContainsFunc(b, func(v string) bool { return slices.Contains(g, v) }) {
			continue
		}
		if len(g) == 1 {
			return []string{placement.Constraint{Key: "node.labels." + label, Value: g[0]}.String()}
		}
		var lines []string
		for _, v := range b {
			lines = append(lines, placement.Constraint{Key: "node.labels." + label, Not: true, Value: v}.String())
		}
		return lines
	}
	var lines []string
	for _, n := range bad {
		if n.Hostname == "" {
			return nil
		}
		lines = append(lines, placement.Constraint{Key: "node.hostname", Not: true, Value: n.Hostname}.String())
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

func platforms(nodes []placement.Node) []string {
	var all []string
	for _, n := range nodes {
		all = append(all, wanted(n))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// nodesOf names nodes and their processors: p1, p2 (ARMv6).
func nodesOf(nodes []placement.Node) string {
	byProcessor := map[string][]string{}
	var order []string
	for _, n := range nodes {
		p := processor(n)
		if byProcessor[p] == nil {
			order = append(order, p)
		}
		byProcessor[p] = append(byProcessor[p], n.String())
	}
	var parts []string
	for _, p := range order {
		names := byProcessor[p]
		if len(names) > 8 {
			names = append(names[:8:8], "…")
		}
		parts = append(parts, fmt.Sprintf("%s (%s)", strings.Join(names, ", "), p))
	}
	return strings.Join(parts, " and ")
}
