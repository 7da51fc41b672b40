package overlays_test

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/overlays"
)

func withRegistry(d *overlays.Data) { d.Registry = true }

// registered is a controller with a registry.
var registered = func() (v struct {
	name string
	data overlays.Data
}) {
	v.name, v.data = "controller-registry", exampleData("controller", withRegistry)
	return v
}()

// TestRegistry: all engines trust the controller's registry and show it who they are; the
// controller alone serves it, and without one nothing of it is laid.
func TestRegistry(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*overlays.Data)
	}{{"controller", withRegistry}, {"p1", withRegistry}, {"controller", engine("29.1.3")}, {"p1", engine("29.1.3")}} {
		data := exampleData(c.name, c.edit)
		links, units := map[string]string{}, 0
		var mirrors []string
		for _, e := range mustRender(t, data) {
			switch {
			case strings.HasPrefix(e.Path, "/etc/docker/certs.d/") && e.Mode&fs.ModeSymlink != 0:
				links[strings.TrimPrefix(e.Path, "/etc/docker/certs.d/")] = e.Target
			case strings.HasSuffix(e.Path, "/hatchery-registry.service"):
				units++
			case e.Path == "/etc/docker/daemon.json":
				var daemon struct {
					Mirrors []string `json:"registry-mirrors"`
				}
				if err := json.Unmarshal(e.Content, &daemon); err != nil {
					t.Fatal(err)
				}
				mirrors = daemon.Mirrors
			}
		}
		wantLinks, wantUnits := map[string]string{}, 0
		var wantMirrors []string
		if data.Registry {
			wantMirrors = []string{"https://172.19.181.254:5001"}
			for _, at := range []string{"172.19.181.254:5000/", "172.19.181.254:5001/"} {
				wantLinks[at+"ca.crt"] = "/etc/hatchery/identity/ca.pem"
				wantLinks[at+"client.cert"] = "/etc/hatchery/identity/certificate.pem"
				wantLinks[at+"client.key"] = "/etc/hatchery/identity/key.pem"
			}
			if data.Controller() {
				wantUnits = 2 // and the link that has it started
			}
		}
		if diff := cmp.Diff(wantLinks, links); diff != "" || units != wantUnits || !cmp.Equal(mirrors, wantMirrors) {
			t.Errorf("%s, registry %v: %d units, mirrors %q (-want +got):\n%s", c.name, data.Registry, units, mirrors, diff)
		}
	}
}
