package preserve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/firstboot/preserve"
	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// described is a plan as text.
func described(dir string, p *kept.Plan) string {
	var all []string
	for _, r := range p.Roots {
		all = append(all, fmt.Sprintf("%s %d", r, r.Files))
	}
	for _, l := range p.Left {
		all = append(all, "not "+l.Name+": "+l.Why)
	}
	for _, u := range p.Users {
		all = append(all, u.Container+" has "+strings.Join(u.Roots, ", "))
	}
	if p.Unknown != "" {
		all = append(all, p.Unknown)
	}
	return strings.ReplaceAll(strings.Join(all, "\n"), dir, "")
}

func TestPlan(t *testing.T) {
	files := map[string]string{
		"docker/volumes/data/_data/f": "12345", "docker/volumes/metadata.db": "m",
		"docker/volumes/mounted/_data/": "", "docker/volumes/mounted/opts.json": `{"MountType":"cifs"}`,
		"docker/volumes/" + strings.Repeat("0a", 32) + "/_data/x": "x", "docker/volumes/empty/": "",
		"srv/data/a": "a", "etc/identity/key": "secret",
	}
	unnamed := "not volume " + strings.Repeat("0a", 32) + ": it has no name of its own"
	volumes := "volume data 3\n" + unnamed + "\nnot volume empty: it has no _data\nnot volume mounted: it has options of the driver: what it holds is mounted from elsewhere, or has a quota"
	for _, test := range []struct {
		summary string
		keep    []string
		uses    []swarm.Use
		deaf    error
		want    string
	}{
		{"volumes", nil, nil, nil, volumes},
		{"a path that is not there", []string{"srv/none"}, nil, nil, volumes},
		{"a path in another", []string{"srv", "srv/data"}, nil, nil,
			"/srv 3\nvolume data 3\nnot /srv/data: it is kept with /srv\n" + strings.SplitN(volumes, "\n", 2)[1]},
		{"what nobody gets", []string{"etc", "docker/volumes", "state/x", ""}, nil, nil,
			"volume data 3\nnot : the agent's own state is there\nnot /docker/volumes: Docker's folder is there; `volumes` keeps its volumes\nnot /etc: the node's identity is there\nnot /state/x: the agent's own state is there\n" + strings.SplitN(volumes, "\n", 2)[1]},
		{"containers", []string{"srv/data"}, []swarm.Use{{Container: "web", Volumes: []string{"data", "other"}}, {Container: "bound", Paths: []string{"/DIR/srv/data/a", "/elsewhere"}}, {Container: "no", Volumes: []string{"other"}}}, nil,
			strings.Replace(volumes, "volume data 3", "/srv/data 2\nvolume data 3", 1) + "\nweb has volume data\nbound has /srv/data"},
		{"an engine that does not answer", nil, nil, errors.New("no engine"), volumes + "\nwhether containers use it is not known: no engine"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			n := newNode(t, t.TempDir(), test.keep, &shelf{})
			lay(t, n.dir, files)
			n.options.Uses = func(context.Context) ([]swarm.Use, error) {
				for i := range test.uses {
					for j := range test.uses[i].Paths {
						test.uses[i].Paths[j] = strings.Replace(test.uses[i].Paths[j], "/DIR", n.dir, 1)
					}
				}
				return test.uses, test.deaf
			}
			p, err := n.keeper().Plan(t.Context())
			must(t, err)
			same(t, "the plan", described(n.dir, p), test.want)
			if !p.Fresh || p.Check() != nil {
				t.Errorf("fresh %v, %v", p.Fresh, p.Check())
			}
			must(t, n.keeper().Restore(t.Context(), nil))
			if p, err = n.keeper().Plan(t.Context()); err != nil || p.Fresh {
				t.Errorf("fresh %v, %v", p.Fresh, err)
			}
		})
	}
}

// TestPlanWithoutVolumes: volumes that are lost because nobody wants them kept are told by
// their names.
func TestPlanWithoutVolumes(t *testing.T) {
	n := newNode(t, t.TempDir(), []string{"srv"}, &shelf{})
	n.options.Node.Keep = n.options.Node.Keep[1:]
	lay(t, n.dir, map[string]string{"docker/volumes/data/_data/f": "12345", "docker/volumes/metadata.db": "m", "srv/a": "a"})
	p, err := n.keeper().Plan(t.Context())
	must(t, err)
	same(t, "the plan", described(n.dir, p), "/srv 2\nnot volume data: `keep:` in cluster.yaml does not name `volumes`")
	if p.Bytes != 1 || p.Check() != nil {
		t.Errorf("%d bytes, %v", p.Bytes, p.Check())
	}
}

// TestVolumesThatCannotBeSeen: they are not taken for none, which would be their end.
func TestVolumesThatCannotBeSeen(t *testing.T) {
	for _, keep := range [][]string{{nodefile.KeepVolumes}, {}} {
		n := newNode(t, t.TempDir(), nil, nil)
		n.options.Node.Keep = keep
		if p, err := n.keeper().Plan(t.Context()); err != nil || len(p.Roots)+len(p.Left) > 0 {
			t.Errorf("no folder of volumes gives %v, %v", p, err)
		}
		lay(t, n.dir, map[string]string{"docker/volumes": "no folder"})
		if p, err := n.keeper().Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot look at Docker's volumes: ") {
			t.Errorf("keep %q gives %v, %v", keep, p, err)
		}
	}
}

// TestGuarded: what the agent cannot see as others do, or is gone after a boot, is not kept.
func TestGuarded(t *testing.T) {
	k := preserve.New(preserve.Options{ConfigDir: "/etc/hatchery", StateDir: "/var/lib/hatchery", DockerRoot: "/var/lib/docker"})
	for path, want := range map[string]string{
		"/srv/data": "", "/etc/motd": "", "/var/tmpl": "", "/var/www": "", "/tmpl": "",
		"/tmp": "of its own", "/tmp/x": "of its own", "/var/tmp": "of its own", "/var/tmp/x": "of its own",
		"/run/x": "outlives a boot", "/var/run": "outlives a boot", "/var/run/x": "outlives a boot", "/var/lock": "outlives a boot", "/var/lock/x": "outlives a boot",
		"/etc": "identity", "/var": "the agent's own state",
	} {
		if got := k.Guarded(path); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestGrowsMeanwhile: an archive does not become larger than what was agreed on, and
// what cannot be read is an error.
func TestGrowsMeanwhile(t *testing.T) {
	n := newNode(t, t.TempDir(), nil, nil)
	lay(t, n.dir, map[string]string{"docker/volumes/v/_data/f": strings.Repeat("x", 1<<20)})
	roots := []kept.Root{{Kind: kept.Volume, Name: "v"}}
	if _, err := n.keeper().Pack(t.Context(), discard{}, roots, 1<<20); err == nil || !strings.Contains(err.Error(), "meanwhile") {
		t.Errorf("%v", err)
	}
	deep := filepath.Join(n.volume("v"), strings.Repeat("d/", 300))
	must(t, os.MkdirAll(deep, 0o755))
	if _, err := n.keeper().Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "deep in each other") {
		t.Errorf("%v", err)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
