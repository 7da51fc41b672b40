package imagebuilder_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/internal/imagetest"
	"hatchery/internal/spec"
	"hatchery/overlays"
)

// TestRegistry: the registry's program is in the controller's image where cluster.yaml has
// one, and is not asked for where it has none.
func TestRegistry(t *testing.T) {
	own := program(t, "GOARCH=arm", "GOARM=6")
	for _, c := range []struct {
		summary, more string
		there         bool
	}{{"with a registry", "registry: true\n", true}, {"without", "", false}} {
		b := newBench(t)
		cluster := b.cluster("homelab", "slots: {p1: {}}\n"+c.more)
		asked := map[string]bool{}
		_, err := imagebuilder.Build(t.Context(), cluster, imagebuilder.Options{
			Out: b.path("out"), Cache: b.path("cache"),
			Programs: func(name, architecture string) ([]byte, error) {
				asked[name+" "+architecture] = true
				if name == imagebuilder.NodeInitProgram || name == imagebuilder.WriterProgram {
					return imagetest.Program(name), nil
				}
				return own, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if asked["registry armv6"] != c.there || asked["registry arm64"] {
			t.Errorf("%s: asked for %v", c.summary, asked)
		}
		for target, there := range map[string]bool{"controller": c.there, "p1": false} {
			info, err := os.Lstat(filepath.Join(unpack(t, b.path("out/"+target+".img")).root, overlays.RegistryPath))
			if (err == nil) != there || there && info.Mode().Perm() != 0o755 {
				t.Errorf("%s: of %s %v, %v", c.summary, target, info, err)
			}
		}
	}
}

// TestRegistryPorts: with a registry its ports are taken.
func TestRegistryPorts(t *testing.T) {
	for _, c := range []struct{ more, want string }{
		{"", ""},
		{"registry: true\n", "port 5000 of the controller is the cluster's registry"},
		{"registry: true\n", "port 5001 of the controller is the cache of Docker Hub"},
	} {
		b := newBench(t)
		b.files(map[string]string{
			"web.yml":      "services:\n  web:\n    image: a:1\n    ports: ['5000:80', '5001:81']\n",
			"cluster.yaml": "name: homelab\nbase: raspios_lite_arm64\nuser: {authorized_keys: [" + key + "]}\nworkloads: [web.yml]\narch_guard: off\n" + c.more,
		})
		cluster, err := spec.Load(b.path("cluster.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = imagebuilder.ReadWorkloads(t.Context(), cluster, imagebuilder.WorkloadOptions{Cache: b.path("cache"), Offline: true})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.more, err)
		}
	}
}
