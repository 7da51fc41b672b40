//go:build linux

package swarm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/internal/swarm"
)

// TestObjects makes, finds, changes and removes what services are made of, and
// provokes what an engine refuses.
func TestObjects(t *testing.T) {
	t.Parallel()
	l := lab(t, 1)
	e, worker := l.Controller.Engine(), l.Slot(1).Engine()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	is := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	named := func(name string) dockerswarm.Annotations {
		return dockerswarm.Annotations{Name: name, Labels: map[string]string{"a": "b"}}
	}
	net, err := e.CreateNetwork(ctx, "proxy", network.CreateOptions{Driver: "overlay", Attachable: true, Options: map[string]string{"encrypted": ""}, Labels: map[string]string{"a": "b"}})
	must(t, err)
	_, err = e.CreateNetwork(ctx, "proxy", network.CreateOptions{Driver: "overlay"})
	is("a network twice", err, swarm.ErrExists)
	networks, err := e.SharedNetworks(ctx)
	must(t, err)
	i := slices.IndexFunc(networks, func(n swarm.SharedNetwork) bool { return n.Name == "proxy" })
	if i < 0 || len(networks) != 2 {
		t.Fatalf("the networks are %+v", networks)
	}
	if n := networks[i]; n.ID != net || !n.Options.Attachable || n.Options.Internal || n.Options.Driver != "overlay" || n.Options.Labels["a"] != "b" {
		t.Errorf("it is %+v", n)
	}
	if _, encrypted := networks[i].Options.Options["encrypted"]; !encrypted {
		t.Errorf("it is not encrypted: %+v", networks[i])
	}

	secret, err := e.CreateSecret(ctx, dockerswarm.SecretSpec{Annotations: named("s"), Data: []byte("x")})
	must(t, err)
	_, err = e.CreateSecret(ctx, dockerswarm.SecretSpec{Annotations: named("s"), Data: []byte("y")})
	is("a secret twice", err, swarm.ErrExists)
	config, err := e.CreateConfig(ctx, dockerswarm.ConfigSpec{Annotations: named("c"), Data: []byte("x")})
	must(t, err)
	_, err = e.CreateConfig(ctx, dockerswarm.ConfigSpec{Annotations: named("c"), Data: []byte("y")})
	is("a config twice", err, swarm.ErrExists)
	for what, list := range map[string]func(context.Context) ([]swarm.Object, error){"s": e.Secrets, "c": e.Configs} {
		objects, err := list(ctx)
		if err != nil || len(objects) != 1 || objects[0].Name != what || objects[0].Labels["a"] != "b" || objects[0].ID == "" || objects[0].Created.IsZero() {
			t.Errorf("%s: %+v, %v", what, objects, err)
		}
	}

	replicas := uint64(0)
	spec := dockerswarm.ServiceSpec{
		Annotations: named("web"), Mode: dockerswarm.ServiceMode{Replicated: &dockerswarm.ReplicatedService{Replicas: &replicas}},
		TaskTemplate: dockerswarm.TaskSpec{
			ContainerSpec: &dockerswarm.ContainerSpec{
				Image:   "hatchery.test/hello:1",
				Secrets: []*dockerswarm.SecretReference{{SecretID: secret, SecretName: "s", File: &dockerswarm.SecretReferenceFileTarget{Name: "s", UID: "0", GID: "0", Mode: 0o444}}},
				Configs: []*dockerswarm.ConfigReference{{ConfigID: config, ConfigName: "c", File: &dockerswarm.ConfigReferenceFileTarget{Name: "/c", UID: "0", GID: "0", Mode: 0o444}}},
			},
			Networks: []dockerswarm.NetworkAttachmentConfig{{Target: net}},
		},
	}
	service, err := e.CreateService(ctx, spec)
	must(t, err)
	_, err = e.CreateService(ctx, spec)
	is("a service twice", err, swarm.ErrExists)
	is("a secret in use", e.RemoveSecret(ctx, secret), swarm.ErrInUse)
	is("a config in use", e.RemoveConfig(ctx, config), swarm.ErrInUse)
	is("a network in use", e.RemoveNetwork(ctx, net), swarm.ErrInUse)
	entry := func() swarm.ServiceEntry {
		t.Helper()
		entries, err := e.ServiceEntries(ctx)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%+v, %v", entries, err)
		}
		return entries[0]
	}
	before := entry()
	if before.ID != service || before.Spec.Name != "web" || before.Version == 0 || before.Desired != 0 || before.Previous != nil {
		t.Errorf("it is %+v", before)
	}
	spec.Labels = map[string]string{"a": "c"}
	// The swarm gives the service its address on the network meanwhile: another version.
	eventually(t, "the service is changed", func() bool {
		before = entry()
		err := e.UpdateService(ctx, service, before.Version, spec)
		if errors.Is(err, swarm.ErrConflict) {
			return false
		}
		must(t, err)
		return true
	})
	is("a change of an old version", e.UpdateService(ctx, service, before.Version, spec), swarm.ErrConflict)
	eventually(t, "the change has come to its end", func() bool { return entry().Previous == nil })
	if after := entry(); after.Version <= before.Version || after.Spec.Labels["a"] != "c" {
		t.Errorf("it is %+v", after)
	}
	must(t, e.RemoveService(ctx, service))
	is("a service that is gone", e.RemoveService(ctx, service), swarm.ErrNotFound)
	must(t, e.RemoveSecret(ctx, secret))
	is("a secret that is gone", e.RemoveSecret(ctx, secret), swarm.ErrNotFound)
	must(t, e.RemoveConfig(ctx, config))
	is("a config that is gone", e.RemoveConfig(ctx, config), swarm.ErrNotFound)
	eventually(t, "nothing is on the network", func() bool { return !errors.Is(e.RemoveNetwork(ctx, net), swarm.ErrInUse) })
	is("a network that is gone", e.RemoveNetwork(ctx, net), swarm.ErrNotFound)

	// Who is no manager tells of nothing.
	_, err = worker.Secrets(ctx)
	is("a worker's secrets", err, swarm.ErrNotManager)
	_, err = worker.Configs(ctx)
	is("a worker's configs", err, swarm.ErrNotManager)
	_, err = worker.ServiceEntries(ctx)
	is("a worker's services", err, swarm.ErrNotManager)

	_, err = e.LocalImage(ctx, "hatchery.test/hello:1")
	is("no image", err, swarm.ErrNotFound)
	_, err = e.SaveImage(ctx, "hatchery.test/hello:1")
	is("no image to write", err, swarm.ErrNotFound)
	must(t, e.LoadImages(ctx, bytes.NewReader(archive(t, "hatchery.test/hello:1"))))
	if i, err := e.LocalImage(ctx, "hatchery.test/hello:1"); err != nil || len(i.Platforms) != 1 || i.Platforms[0].OS != "linux" || !strings.HasPrefix(i.ID, "sha256:") {
		t.Errorf("%+v, %v", i, err)
	}
	stream, err := e.SaveImage(ctx, "hatchery.test/hello:1")
	must(t, err)
	names := map[string]bool{}
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		names[h.Name] = true
	}
	must(t, stream.Close())
	if !names["manifest.json"] {
		t.Errorf("what is written of it has %v", names)
	}
	if i, err := e.RegistryImage(ctx, "hatchery.test/hello:1"); err == nil {
		t.Errorf("a registry that is not there says %+v", i)
	}
}
