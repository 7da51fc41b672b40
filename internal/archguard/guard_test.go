package archguard_test

import (
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hatchery/internal/archguard"
	"hatchery/internal/cpu"
	"hatchery/internal/stack"
	"hatchery/internal/stack/placement"
)

func node(name, role, arch, model string) placement.Node {
	return placement.Node{Name: name, Hostname: name, Role: role, Labels: map[string]string{"hatchery.slot": name, "hatchery.arch": arch, "hatchery.model": model}}
}

func nodes() []placement.Node {
	return []placement.Node{
		node("controller", placement.Manager, "arm64", "4"), node("p1", placement.Worker, "armv6", "zero"), node("p2", placement.Worker, "armv6", "zero"),
		node("p3", placement.Worker, "armv7", "zero-2-w"),
	}
}

// shelf has images by name.
type shelf map[string]archguard.Image

func (s shelf) Image(_ context.Context, ref string) (archguard.Image, error) {
	image, ok := s[ref]
	if !ok {
		return image, archguard.ErrNotFound
	}
	return image, nil
}

func variants(platforms ...string) []archguard.Variant {
	var all []archguard.Variant
	for _, p := range platforms {
		parts := append(strings.Split(p, "/"), "")
		all = append(all, archguard.Variant{Platform: archguard.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}})
	}
	return all
}

// withPrograms is one variant with programs in it.
func withPrograms(platform string, programs map[string]cpu.Program) []archguard.Variant {
	v := variants(platform)
	v[0].Programs = func(_ context.Context, visit func(string, cpu.Program) error) error {
		for path, p := range programs {
			if err := visit(path, p); err != nil {
				return err
			}
		}
		return nil
	}
	return v
}

// program is a static one by Go, for a level of ARM.
func program(goarm string, major int) cpu.Program {
	return cpu.Program{Kind: cpu.Executable, Machine: elf.EM_ARM, Bits: 32, GoArm: goarm, GoVersion: "go1.26", Level: cpu.Level{Major: major}}
}

func services(t *testing.T, image, constraints string) []stack.Service {
	t.Helper()
	file := filepath.Join(t.TempDir(), "s.yml")
	text := "services:\n  web:\n    image: " + image + "\n"
	if constraints != "" {
		text += "    deploy: {placement: {constraints: [" + constraints + "]}}\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := stack.Load(t.Context(), file, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Services
}

func TestCheck(t *testing.T) {
	images := shelf{
		"all:1":       {Variants: variants("linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "windows/amd64")},
		"seven:1":     {Variants: variants("linux/amd64", "linux/arm/v7", "linux/arm64")},
		"sixtyfour:1": {Variants: variants("linux/amd64", "linux/arm64")},
		"pc:1":        {Variants: variants("linux/amd64"), Single: true},
		"bare:1":      {Variants: variants("linux/arm"), Single: true},
		"five:1":      {Variants: variants("linux/arm/v5")},
		"none:1":      {},
		"trap:1":      {Variants: withPrograms("linux/arm/v6", map[string]cpu.Program{"/hello": program("7", 7)}), Single: true},
		"six:1":       {Variants: withPrograms("linux/arm", map[string]cpu.Program{"/hello": program("6", 6)}), Single: true},
	}
	const trap = " (built by Go without GOARM=6, which `docker build --platform` does not set: ENV GOARM=6 before go build)"
	for _, c := range []struct {
		summary, image, constraints string
		nodes                       func([]placement.Node) []placement.Node
		want                        string // of the finding, "" for none
		added                       string // in the mode fix
	}{
		{summary: "an image for all", image: "all:1"},
		{summary: "one for the oldest", image: "five:1"},
		{summary: "none for a Zero", image: "seven:1", want: "it may land on p1, p2 (ARMv6), and seven:1 has nothing for ARMv6: it has linux/amd64, linux/arm/v7, linux/arm64 (programs for ARMv7 die on ARMv6 without a word): keep the service off with deploy.placement.constraints: [node.labels.hatchery.arch != armv6], or take an image that has linux/arm/v6",
			added: "node.labels.hatchery.arch != armv6"},
		{summary: "64 bits only", image: "sixtyfour:1", want: "it may land on p1, p2 (ARMv6) and p3 (ARMv7), and sixtyfour:1 has nothing for ARMv6: it has linux/amd64, linux/arm64: keep the service off with deploy.placement.constraints: [node.labels.hatchery.arch == arm64], or take an image that has linux/arm/v6 and linux/arm/v7",
			added: "node.labels.hatchery.arch == arm64"},
		{summary: "kept off already", image: "sixtyfour:1", constraints: "node.role == manager"},
		{summary: "kept off by the label", image: "seven:1", constraints: "node.labels.hatchery.arch!=ARMv6"},
		{summary: "kept off one of two", image: "seven:1", constraints: "node.hostname != p1", want: "it may land on p2 (ARMv6), and", added: "node.labels.hatchery.arch != armv6"},
		{summary: "for a computer", image: "pc:1", constraints: "node.labels.hatchery.slot == p1", want: "pc:1 has nothing for ARMv6: it has linux/amd64: take an image that has linux/arm/v6"},
		{summary: "a version of ARM that nobody names", image: "bare:1", constraints: "node.role == worker", want: "it may land on p1, p2 (ARMv6), and bare:1 has nothing for ARMv6: it has linux/arm (linux/arm without a variant says nothing of the version; Docker takes it for v7, and programs for ARMv7 die on ARMv6 without a word): keep the service off with deploy.placement.constraints: [node.labels.hatchery.arch == armv7], or",
			added: "node.labels.hatchery.arch == armv7"},
		{summary: "one that its programs name", image: "six:1", constraints: "node.role == worker"},
		{summary: "the trap", image: "trap:1", want: "it may land on p1, p2 (ARMv6), and trap:1 calls itself linux/arm/v6, but its /hello is another matter: needs ARMv7 (GOARM=7), but a model zero has ARMv6" + trap + ": keep the service off with", added: "node.labels.hatchery.arch != armv6"},
		{summary: "the trap where it is none", image: "trap:1", constraints: "node.labels.hatchery.slot == p3"},
		{summary: "nothing in it", image: "none:1", constraints: "node.role == manager", want: "none:1 has nothing for any processor"},
		{summary: "an image that nobody has", image: "nowhere:1", want: "warning: services.web.image: nowhere:1 is in no registry and no archive that was asked"},
		{summary: "nowhere that it could land", image: "pc:1", constraints: "node.labels.disk == ssd"},
		{summary: "32 bits on a Pi 5", image: "five:1", constraints: "node.role == manager", nodes: func([]placement.Node) []placement.Node {
			return []placement.Node{node("controller", placement.Manager, "arm64", "5")}
		}, want: "five:1 has nothing for arm64: it has linux/arm/v5: take an image that has linux/arm64"},
		{summary: "drained", image: "seven:1", nodes: func(all []placement.Node) []placement.Node {
			all[1].Availability, all[2].Availability = "drain", "drain"
			return all
		}, want: "warning: services.web.image: it may land on p1, p2 (ARMv6)", added: "node.labels.hatchery.arch != armv6"},
		{summary: "no labels", image: "seven:1", nodes: func(all []placement.Node) []placement.Node {
			for i := range all {
				all[i].Arch, all[i].Labels = all[i].Labels["hatchery.arch"], nil
			}
			return all
		}, want: "keep the service off with deploy.placement.constraints: [node.hostname != p1, node.hostname != p2]", added: "node.hostname != p1,node.hostname != p2"},
		{summary: "an unknown processor", image: "seven:1", nodes: func([]placement.Node) []placement.Node { return []placement.Node{{Name: "x"}} }, want: "warning: services.web.image: nothing says what processor x has"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			o := archguard.Options{Mode: archguard.Error, Nodes: nodes(), Read: images}
			if c.nodes != nil {
				o.Nodes = c.nodes(o.Nodes)
			}
			list := services(t, c.image, c.constraints)
			r, err := archguard.Check(t.Context(), list, o)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case c.want == "" && len(r.Findings) != 0:
				t.Errorf("it finds %v", r.Findings)
			case c.want != "" && (len(r.Findings) != 1 || !strings.Contains(r.Findings[0].String(), c.want)):
				t.Errorf("it finds\n%v, want\n%s", r.Findings, c.want)
			case len(r.Findings) == 1 && (!strings.Contains(r.Findings[0].String(), "s.yml:3:5: ") || r.Broken() == strings.HasPrefix(c.want, "warning")):
				t.Errorf("it finds %v, broken: %v", r.Findings, r.Broken())
			}
			o.Mode = archguard.Fix
			r, err = archguard.Check(t.Context(), list, o)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string][]string{}
			if c.added != "" {
				want["s_web"] = strings.Split(c.added, ",")
			}
			if diff := cmp.Diff(want, r.Added, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the mode fix adds (-want +got):\n%s", diff)
			}
			// What is added is what it takes, and no more: the service has nowhere
			// left to die, and still somewhere to run.
			if added := r.Added["s_web"]; added != nil {
				if r.Broken() {
					t.Errorf("it is mended, and broken: %v", r.Findings)
				}
				all := strings.Join(append([]string{c.constraints}, added...), ", ")
				o.Mode = archguard.Error
				again := services(t, c.image, strings.TrimPrefix(all, ", "))
				if r, err := archguard.Check(t.Context(), again, o); err != nil || len(r.Findings) != 0 {
					t.Errorf("with %s it finds %v, %v", all, r.Findings, err)
				}
				constraints, _ := placement.ParseAll(again[0].Constraints())
				if len(placement.Candidates(constraints, o.Nodes)) == 0 {
					t.Errorf("with %s it runs nowhere", all)
				}
			}
			o.Mode = archguard.Off
			if r, err := archguard.Check(t.Context(), list, o); err != nil || len(r.Findings)+len(r.Added) != 0 {
				t.Errorf("the mode off finds %v, %v", r, err)
			}
		})
	}
}

func TestAllowed(t *testing.T) {
	images := shelf{"trap:1": {Variants: withPrograms("linux/arm/v6", map[string]cpu.Program{"/usr/lib/fast.so": program("7", 7)})}}
	r, err := archguard.Check(t.Context(), services(t, "trap:1", ""), archguard.Options{Mode: archguard.Error, Nodes: nodes(), Read: images,
		Allowed: func(ref, path string) bool { return ref == "trap:1" && path == "/usr/lib/fast.so" }})
	if err != nil || len(r.Findings) != 0 {
		t.Errorf("it finds %v, %v", r.Findings, err)
	}
}

type broken struct{ err error }

func (b broken) Image(context.Context, string) (archguard.Image, error) {
	return archguard.Image{}, b.err
}

func TestInOrder(t *testing.T) {
	has := shelf{"a": {Single: true}}
	unreached := errors.New("unreached")
	for _, c := range []struct {
		summary string
		readers []archguard.Reader
		want    error
	}{
		{"the second has it", []archguard.Reader{broken{unreached}, has}, nil},
		{"none has it", []archguard.Reader{shelf{}, shelf{}}, archguard.ErrNotFound},
		{"nobody", nil, archguard.ErrNotFound},
		{"one is not reached", []archguard.Reader{shelf{}, broken{unreached}, shelf{}}, unreached},
	} {
		if _, err := archguard.InOrder(c.readers...).Image(t.Context(), "a"); !errors.Is(err, c.want) {
			t.Errorf("%s: the error is %v", c.summary, err)
		}
	}
}

func TestSeparating(t *testing.T) {
	all := nodes()
	five := node("p4", placement.Worker, "arm64", "5")
	for _, c := range []struct {
		summary   string
		good, bad []placement.Node
		want      string
	}{
		{"one architecture", all[:1], all[1:], "node.labels.hatchery.arch == arm64"},
		{"several", []placement.Node{all[0], all[3]}, all[1:3], "node.labels.hatchery.arch != armv6"},
		{"by model", all[:1], []placement.Node{five}, "node.labels.hatchery.model == 4"},
		{"by slot", all[1:2], all[2:3], "node.labels.hatchery.slot == p1"},
		{"nothing good", nil, all, ""},
	} {
		if have := strings.Join(archguard.Separating(c.good, c.bad), ", "); have != c.want {
			t.Errorf("%s: %s, want %s", c.summary, have, c.want)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := archguard.Check(ctx, services(t, "a:1", ""), archguard.Options{Mode: archguard.Error, Nodes: nodes(), Read: shelf{}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}
